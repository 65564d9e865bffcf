"""Gflops and parameters: counted from the built model, against a closed form written here and the paper's table."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.config import SIZES, make
from harness.cost import cost, interface, work
from harness.data.registry import DATASETS
from harness.diffusion.objectives.registry import OBJECTIVES
from harness.errors import ConfigError
from harness.models.conditioning import CONDITIONING
from harness.models.registry import build

ROOT = Path(__file__).parents[1]
TABLE = list(csv.DictReader((ROOT / "analysis" / "published" / "dit_models.csv").open()))
PRINTED = {name.lower().replace("-", "_"): name for name in CONDITIONING}  # as the table writes them
SHAPES = {"imagenet-256-latents": (4, 1000), "fashion-mnist": (1, 10)}  # dataset: channels, classes, at side 32
# Every size on the data it is for, the paper's or the CPU's, and one of each on the other.
PAIRS = [(size, "fashion-mnist" if size[0].isdigit() else "imagenet-256-latents") for size in SIZES]
PAIRS += [("S", "fashion-mnist"), (next(iter(SIZES)), "imagenet-256-latents")]


def trial(size, patch, conditioning="adaLN-Zero", dataset="imagenet-256-latents", **fields):
    shape = {"model.size": size, "model.patch": patch, "model.conditioning": conditioning, "data.dataset": dataset}
    return make(shape | {name.replace("__", "."): value for name, value in fields.items()})


def multiply_adds(depth, width, patch, conditioning, channels):
    """Forward of one 32x32 image: linear layers and the two matmuls of attention, a multiply-add counted once."""
    d, patches = width, (32 // patch) ** 2
    t = patches + 2 if conditioning == "in-context" else patches
    block = 3 * t * d**2 + 2 * t**2 * d + t * d**2 + 8 * t * d**2  # qkv, attention, out, mlp
    block += {
        "adaLN-Zero": 6 * d**2,
        "adaLN": 4 * d**2,
        "in-context": 0,
        "cross-attention": 2 * t * d**2 + 2 * 2 * d**2 + 2 * t * 2 * d,  # q and out, k and v of 2 tokens, attention
    }[conditioning]
    head = 2 * d**2 if conditioning.startswith("adaLN") else 0
    ends = patches * d * patch**2 * channels + patches * d * patch**2 * 2 * channels  # noise and covariance
    return depth * block + head + ends + 256 * d + d**2


def parameters(depth, width, patch, conditioning, channels, classes):
    """Weights and biases by layer."""
    d, values = width, patch**2 * channels

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    block = linear(d, 3 * d) + linear(d, d) + linear(d, 4 * d) + linear(4 * d, d)
    block += {
        "adaLN-Zero": linear(d, 6 * d),
        "adaLN": linear(d, 4 * d),
        "in-context": 2 * 2 * d,  # two norms
        "cross-attention": 3 * 2 * d + 2 * linear(d, d) + linear(d, 2 * d),
    }[conditioning]
    head = linear(d, 2 * values) + (linear(d, 2 * d) if conditioning.startswith("adaLN") else 2 * d)
    embedders = linear(values, d) + linear(256, d) + linear(d, d) + (classes + 1) * d
    return depth * block + head + embedders


@pytest.mark.parametrize(("size", "dataset"), PAIRS)
@pytest.mark.parametrize("patch", [8, 4, 2])
@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_counts_are_the_closed_form(size, patch, conditioning, dataset):
    depth, width, _ = SIZES[size]
    channels, classes = SHAPES[dataset]
    priced = cost(trial(size, patch, conditioning, dataset))
    expected = multiply_adds(depth, width, patch, conditioning, channels)
    assert priced.gflops * 1e9 == pytest.approx(expected, rel=1e-9)
    assert priced.params == parameters(depth, width, patch, conditioning, channels, classes)
    assert priced.tokens == (32 // patch) ** 2


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['model']} {row['conditioning']} {row['ksteps']}K")
def test_counts_are_the_paper_s(row):
    """Table 4: within 0.5 %, or the two decimals that are printed; parameters to the printed million."""
    priced = cost(trial(row["size"], int(row["patch"]), PRINTED[row["conditioning"]]))
    printed = float(row["gflops"])
    assert priced.gflops == pytest.approx(printed, rel=0.005) or round(priced.gflops, 2) == printed
    assert round(priced.params / 1e6) == int(row["params_m"])


def test_the_paper_s_table_holds_all_it_should():
    adaln_zero = {row["model"] for row in TABLE if row["conditioning"] == "adaln_zero"}
    assert adaln_zero == {f"DiT-{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in (8, 4, 2)}
    assert {row["conditioning"]: row["params_m"] for row in TABLE} == {
        "in_context": "449", "cross_attention": "598", "adaln": "600", "adaln_zero": "675",
    }  # fmt: skip


def test_the_parts_of_a_model_sum_to_the_whole():
    """And the counter's own unit is two operations a multiply-add."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = build(trial("2x96x2", 2).model, 4, 32, 1000, 8, seed=None)
        net(torch.empty(1, 4, 32, 32), *2 * [torch.empty(1, dtype=torch.long)])
    assert counter.get_total_flops() == 2 * multiply_adds(2, 96, 2, "adaLN-Zero", 4)
    parts = [f"DiT.{name}" for name in ("embed", "time", "label", "head", "blocks.0", "blocks.1")]
    counted = counter.get_flop_counts()
    assert sum(sum(counted[part].values()) for part in parts if part in counted) == counter.get_total_flops()


def test_counting_leaves_out_what_the_paper_leaves_out():
    """No guidance, no batch, no sampling: the settings around a model change nothing of its Gflops."""
    plain = cost(trial("S", 4))
    assert cost(trial("S", 4, evaluate__guidance=4.0, train__batch=7, seed=3)) == plain


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_head_has_the_outputs_of_the_objective(objective):
    """Whose twice as many channels, with a covariance, cost that much more."""
    plain, priced = (cost(trial("S", 4, diffusion__objective=name)) for name in ("ddpm", objective))
    less = 64 * 384 * 4**2 * 4 if objective != "ddpm" else 0  # a linear layer of 64 tokens, width 384, 4x4 pixels of 4
    assert (plain.gflops - priced.gflops) * 1e9 == pytest.approx(less)
    assert plain.params - priced.params == (385 * 4**2 * 4 if less else 0)
    assert interface(trial("S", 4, diffusion__objective=objective)) == (4, 32, 1000, 4 if less else 8)


def test_training_costs_three_forwards_an_image():
    """Figure 9: Gflops x batch x steps x 3. XL/2 after 400K steps of 256."""
    priced = cost(trial("XL", 2))
    assert priced.train_gflops(1000) == 3 * priced.gflops * 1000
    assert priced.train_gflops(400_000 * 256) == pytest.approx(3.64e10, rel=0.002)


def test_work_is_training_and_sampling():
    cell = trial("S", 8, train__images=1000, train__batch=256, evaluate__samples=10, evaluate__steps=5)
    g = cost(cell).gflops
    assert len(cell.cadence) == 3
    assert work(cell) == pytest.approx(3 * g * 1024 + 3 * 10 * 5 * g)
    guided = trial("S", 8, train__images=1000, train__batch=256, evaluate__samples=10, evaluate__steps=5,
                   evaluate__guidance=1.5)  # fmt: skip
    assert work(guided) == pytest.approx(3 * g * 1024 + 3 * 10 * 5 * g * 2)


@pytest.mark.parametrize(("sampler", "calls"), [("euler", 5), ("heun", 9)])
def test_heun_s_work_is_two_calls_a_step_but_for_the_last(sampler, calls):
    fields = {"diffusion__objective": "flow", "evaluate__sampler": sampler, "evaluate__samples": 10}
    cell = trial("S", 8, train__images=1000, train__batch=256, evaluate__steps=5, **fields)
    g = cost(cell).gflops
    assert work(cell) == pytest.approx(3 * g * 1024 + 3 * 10 * calls * g)
    assert work(cell, images=0, evaluations=1) == pytest.approx(10 * calls * g)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_can_be_priced(dataset):
    assert cost(trial("S", 4, dataset=dataset)).gflops > 0.3


def test_what_cannot_be_built_cannot_be_priced():
    with pytest.raises(ConfigError, match=r"model\.patch: 5 does not divide the side 32; allowed: 1, 2, 4, 8, 16, 32"):
        cost(trial("S", 5))
    with pytest.raises(ConfigError, match=r"data\.dataset: unknown dataset 'mnist'; allowed: fashion-mnist, "):
        cost(trial("S", 4, dataset="mnist"))


def test_a_cost_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        cost(trial("S", 4)).gflops = 1
