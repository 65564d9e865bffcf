"""Weights to and from the official DiT and diffusers: other implementations compute the same, and nothing is lost."""

import argparse
import json
import math
import os
import pickle
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.utils import dynamic_modules_utils
from typer.testing import CliRunner

from harness import interop, record
from harness.config import SIZES, Diffusion, make
from harness.data import autoencoder
from harness.data.registry import DATASETS
from harness.diffusion.guidance import guided
from harness.diffusion.objectives.registry import OBJECTIVES, kind, objective
from harness.diffusion.process import SCHEDULES, _process, process
from harness.diffusion.samplers.registry import SAMPLERS, sample
from harness.errors import ConfigError
from harness.interop import Network, load_diffusers, load_official, load_run, save_diffusers, save_official
from harness.interop.diffusers import BETAS, NULL, PREDICTS, diffusion_of, to_scheduler, to_transformer
from harness.interop.identity import identity
from harness.interop.official import _heads
from harness.interop.pipeline import PaperDiTPipeline, space_frequencies
from harness.models.registry import build
from harness.tracking.sinks import Memory
from harness.tracking.store import Store
from harness.trial import send_weights
from sweeps import __main__ as door

FACTS = {"channels", "side", "classes", "bounded", "class_names"}


def stirred(net, width, seed=1):
    """The same net with noise on every weight, about as much as training leaves, so that none is zero any more."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.5 * width**-0.5 * torch.randn(p.shape, generator=rng)
    return net


def network(size="2x32x2", patch=4, channels=3, side=8, classes=5, seed=1, **others):
    facts = {name: others.pop(name) for name in (FACTS | {"coder"}) & others.keys()}
    fields = {"model.size": size, "model.patch": patch, "evaluate.sampler": "ddim"}
    cell = make(fields | {name.replace("__", "."): value for name, value in others.items()})
    shape, outputs = (cell.model, channels, side, classes), kind(cell.diffusion.objective).outputs(channels)
    net = stirred(build(*shape, outputs), cell.model.width, seed)
    return Network(*shape, net.state_dict(), cell.diffusion, **facts)


def inputs(net, count=4, seed=2):
    """x, t, y with the first and last timestep and the null class among them."""
    x = torch.randn(count, *net.shape, generator=torch.Generator().manual_seed(seed))
    return x, torch.linspace(0, 999, count).long(), torch.linspace(0, net.classes, count).long()


def equal(a, b):
    """Bit for bit, in weights and in everything else."""
    same = a.weights.keys() == b.weights.keys() and all(torch.equal(a.weights[k], b.weights[k]) for k in a.weights)
    return same and all(getattr(a, name) == getattr(b, name) for name in {"model", "diffusion"} | FACTS)


@pytest.fixture(autouse=True)
def _no_cache_outside(tmp_path, monkeypatch):
    """diffusers copies the code of a folder to its cache before it runs it."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))


# The official layout: a second implementation, written from the paper and the published names alone


def published(side=8, channels=3, width=32, depth=2, patch=2, classes=5, out=6, hidden=0, seed=0):
    """A made-up checkpoint."""
    hidden = hidden or 4 * width
    shapes = {
        "x_embedder.proj": (width, channels, patch, patch),
        "t_embedder.mlp.0": (width, 256), "t_embedder.mlp.2": (width, width),
        "y_embedder.embedding_table": (classes + 1, width),
        "final_layer.linear": (patch * patch * out, width), "final_layer.adaLN_modulation.1": (2 * width, width),
    }  # fmt: skip
    for i in range(depth):
        shapes |= {
            f"blocks.{i}.attn.qkv": (3 * width, width), f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.mlp.fc1": (hidden, width), f"blocks.{i}.mlp.fc2": (width, hidden),
            f"blocks.{i}.adaLN_modulation.1": (6 * width, width),
        }  # fmt: skip
    rng, state = torch.Generator().manual_seed(seed), {"pos_embed": grid_positions(width, side // patch)}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=rng) * math.prod(shape[1:]) ** -0.5
        if "table" not in name:
            state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=rng)
    return state


def grid_positions(width, grid):
    """(1, T, D): the column's sines and cosines, then the row's."""
    table = np.zeros((grid, grid, width))
    quarter = width // 4
    for row in range(grid):
        for column in range(grid):
            for k in range(quarter):
                omega = 10_000 ** (-k / quarter)
                for n, place in enumerate((column, row)):
                    table[row, column, 2 * n * quarter + k] = math.sin(place * omega)
                    table[row, column, (2 * n + 1) * quarter + k] = math.cos(place * omega)
    return torch.from_numpy(table).float().view(1, grid * grid, width)


def published_forward(state, x, t, y, heads):
    """Section 3.2 of the paper, one image at a time."""

    def linear(name, v):
        return F.linear(v, state[f"{name}.weight"], state[f"{name}.bias"])

    def modulated(v, shift, scale):
        return F.layer_norm(v, v.shape[-1:], eps=1e-6) * (1 + scale) + shift

    def attention(name, v):
        q, k, v = linear(f"{name}.qkv", v).chunk(3, dim=-1)
        each = [
            torch.softmax(a @ b.T / a.shape[-1] ** 0.5, dim=-1) @ c
            for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
        ]
        return linear(f"{name}.proj", torch.cat(each, dim=-1))

    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    patch, images = state["x_embedder.proj.weight"].shape[-1], []
    for image, time, label in zip(x, t.tolist(), y.tolist(), strict=True):
        angles = time * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
        c = F.silu(linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()])))
        c = F.silu(linear("t_embedder.mlp.2", c) + state["y_embedder.embedding_table.weight"][label])
        v = F.conv2d(image[None], state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=patch)
        v = v[0].flatten(1).T + state["pos_embed"][0]  # (T, D)
        for i in range(depth):
            parts = linear(f"blocks.{i}.adaLN_modulation.1", c).chunk(6)  # shift, scale, gate of either branch
            v = v + parts[2] * attention(f"blocks.{i}.attn", modulated(v, *parts[:2]))
            hidden = F.gelu(linear(f"blocks.{i}.mlp.fc1", modulated(v, *parts[3:5])), approximate="tanh")
            v = v + parts[5] * linear(f"blocks.{i}.mlp.fc2", hidden)
        v = linear("final_layer.linear", modulated(v, *linear("final_layer.adaLN_modulation.1", c).chunk(2)))
        side, out = image.shape[-1] // patch, v.shape[-1] // patch**2
        rows = v.view(side, side, patch, patch, out).unbind(0)  # of each: (G, P, P, K)
        images.append(torch.cat([torch.cat(list(row), dim=1) for row in rows], dim=0).permute(2, 0, 1))
    return torch.stack(images)


def saved(state, path):
    torch.save(state, path)
    return path


@torch.no_grad()
@pytest.mark.parametrize("out", [3, 6])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_official_checkpoint_computes_what_it_did(tmp_path, out, wrapped):
    state = published(out=out)
    held = {"model": published(out=out, seed=9), "ema": state, "opt": {}, "args": argparse.Namespace(model="DiT-S/2")}
    net = load_official(saved(held if wrapped else state, tmp_path / "x.pt"), heads=4)
    assert (net.model.depth, net.model.width, net.model.heads, net.model.patch) == (2, 32, 4, 2)
    assert (net.channels, net.side, net.classes) == (3, 8, 5)
    assert net.diffusion == Diffusion(objective={3: "noise", 6: "ddpm"}[out])
    x, t, y = inputs(net)
    found, expected = net.net()(x, t, y), published_forward(state, x, t, y, heads=4)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["ddpm", "noise"])
@pytest.mark.parametrize("patch", [2, 4])
def test_there_and_back_nothing_of_an_official_checkpoint_changes(tmp_path, patch, name):
    net = network("2x80", patch, diffusion__objective=name)
    assert equal(load_official(save_official(net, tmp_path)), net)
    state = published(width=80, patch=patch, out={"ddpm": 6, "noise": 3}[name])
    state["pos_embed"] = torch.load(save_official(net, tmp_path))["pos_embed"]
    again = torch.load(save_official(load_official(saved(state, tmp_path / "x.pt")), tmp_path))
    assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)


@torch.no_grad()
@pytest.mark.parametrize(("width", "hidden"), [(44, 60), (112, 453), (208, 15)])
def test_any_hidden_width_survives(tmp_path, width, hidden):
    """Of these widths, hidden / width * width falls short of hidden in fp64."""
    assert int(hidden / width * width) < hidden
    state = published(width=width, hidden=hidden, depth=3)
    net = load_official(saved(state, tmp_path / "x.pt"), heads=2)
    x, t, y = inputs(net)
    expected = published_forward(state, x, t, y, heads=2)
    torch.testing.assert_close(net.net()(x, t, y), expected, atol=1e-5, rtol=1e-5)
    if width == 112:  # which is a named size: 3x112
        assert equal(load_official(save_official(net, tmp_path)), net)


def test_heads_are_those_of_the_named_size():
    assert [_heads(*shape) for shape in ((12, 384), (12, 768), (24, 1024), (28, 1152))] == [6, 12, 16, 16]
    assert len({row[:2] for row in SIZES.values()}) == len(SIZES)  # or a size would come back as another


def test_the_null_class_is_the_last_of_a_row_more_than_there_are_classes(tmp_path):
    path = saved(published(), tmp_path / "x.pt")
    assert load_official(path, heads=4, classes=5).classes == load_official(path, heads=4).classes == 5
    with pytest.raises(ConfigError, match=r"x\.pt: .*table\.weight has 6 rows for 6 classes: no null class, .*: 7$"):
        load_official(path, heads=4, classes=6)
    with pytest.raises(ConfigError, match=r"x\.pt: .*table\.weight has 6 rows for 3 classes; allowed: 4$"):
        load_official(path, heads=4, classes=3)


@pytest.mark.parametrize("rows", [10, 100, 1000])
def test_a_table_of_as_many_rows_as_a_usual_dataset_has_classes_has_no_null_class(tmp_path, rows):
    path = saved(published(classes=rows - 1), tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=rf"has {rows} rows, as of {rows} classes without a null .*={rows - 1} if"):
        load_official(path, heads=4)
    assert load_official(path, heads=4, classes=rows - 1).classes == rows - 1
    path = saved(published(classes=rows), tmp_path / "x.pt")
    assert load_official(path, heads=4).classes == rows


class Pickled:
    """Something that a file may hold and reading should not make."""


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


OFFICIAL = {
    "missing": (without("blocks.1.attn.qkv.bias"), "it lacks 'blocks.1.attn.qkv.bias'"),
    "unknown": (lambda s: s | {"extra": torch.zeros(1)}, "it has an unknown 'extra'"),
    "rows first": (lambda s: s | {"pos_embed": s["pos_embed"].roll(16, -1)}, "pos_embed differs by 2 from the fixed"),
    "not numbers": (lambda s: s | {"pos_embed": s["pos_embed"] * math.nan}, "pos_embed differs by nan"),
    "not square": (lambda s: s | {"pos_embed": s["pos_embed"][:, :15]}, "pos_embed is (1, 15, 32)"),
    "channels": (
        lambda s: s | {"final_layer.linear.bias": torch.zeros(20)},
        "channels out: 5; allowed: 6 (objective ddpm), 3 (objective noise)"),
    "shape": (
        lambda s: s | {"blocks.1.mlp.fc1.bias": torch.zeros(5)}, "weights: blocks.1.mlp.0.bias is 5; allowed: 128"),
    "another layout": (lambda s: {"weight": torch.zeros(1)}, "not the layout of the official DiT: it lacks"),
    "linear embedding": (
        lambda s: s | {"x_embedder.proj.weight": torch.zeros(32, 12)},
        "x_embedder.proj.weight is (32, 12); allowed: 4 dimensions, none of them 0"),
    "flat positions": (lambda s: s | {"pos_embed": torch.zeros(16)}, "pos_embed is (16,); allowed: 3 dimensions"),
    "no channels": (
        lambda s: s | {"x_embedder.proj.weight": torch.zeros(32, 0, 2, 2)}, "(32, 0, 2, 2); allowed: 4 dimensions"),
    "a number": (lambda s: s | {"final_layer.linear.bias": torch.zeros(())}, "bias is (); allowed: 1 dimensions"),
    "one class": (
        lambda s: s | {"y_embedder.embedding_table.weight": torch.zeros(1, 32)},
        "embedding_table.weight has 1 row; allowed: one for each class, and the null class's"),
    "a list": (lambda s: list(s.values()), "no state dict (it is a list); allowed: tensors by name"),
    "a tensor": (lambda s: s["pos_embed"], "no state dict (it is a Tensor); allowed: tensors by name"),
    "values": (lambda s: s | {"epoch": 3}, "no state dict ('epoch' is a int); allowed: tensors by name"),
    "another wrapper": (lambda s: {"net": s}, "no state dict ('net' is a dict); allowed: tensors by name"),
    "numbered": (lambda s: dict(enumerate(s.values())), "no state dict (0 is a Tensor); allowed: tensors by name"),
    "wrapped list": (lambda s: {"ema": list(s)}, "no state dict (it is a list); allowed: tensors by name"),
    "empty": (lambda s: {}, "no state dict (it is empty); allowed: tensors by name"),
    "a class": (lambda s: Pickled(), "it is not what torch.save writes of tensors and plain values"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), OFFICIAL.values(), ids=OFFICIAL)
def test_an_official_checkpoint_that_is_none_is_refused(tmp_path, change, words):
    path = saved(change(published()), tmp_path / "x.pt")
    with pytest.raises(ConfigError) as error:
        load_official(path, heads=4)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_heads_that_cannot_be_known_or_cannot_be_are_refused(tmp_path):
    path = saved(published(), tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=r"^model\.heads: no named size has 2 blocks of width 32; give heads="):
        load_official(path)
    with pytest.raises(ConfigError, match=r"heads=5 does not divide width=32"):
        load_official(path, heads=5)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(ConfigError, match=r"x\.pt: cannot be read as a checkpoint"):
        load_official(path)
    for content in (b"", b"no", b"hello, world\n", pickle.dumps(Pickled())):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"x\.pt: cannot be read as a checkpoint \([^\n]*\)$"):
            load_official(path)


def refusal(path):
    """What is said of a file; nothing if it is taken."""
    try:
        load_official(path, heads=4)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_spoiled_file_is_refused_in_one_line(tmp_path, zipped):
    path, rng = tmp_path / "x.pt", np.random.default_rng(0)
    torch.save(published(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for _ in range(40):
        content = np.frombuffer(whole, np.uint8).copy()
        content[rng.integers(0, 2000, 5)] = rng.integers(0, 256, 5)  # where it says what it holds
        path.write_bytes(content.tobytes())
        assert "\n" not in refusal(path)


def test_a_checkpoint_in_half_precision_is_a_network_in_fp32(tmp_path):
    state = published()
    net = load_official(saved({name: w.half() for name, w in state.items()}, tmp_path / "x.pt"), heads=4)
    assert {w.dtype for w in net.weights.values()} == {torch.float32}
    torch.testing.assert_close(net.weights["head.linear.weight"], state["final_layer.linear.weight"], atol=1e-3, rtol=0)


def test_positions_that_training_averaged_are_still_the_positions(tmp_path):
    state = published()
    state["pos_embed"] += 3e-4
    assert load_official(saved(state, tmp_path / "x.pt"), heads=4).side == 8


# diffusers: the network and its loss

SHAPES = [
    ("2x32x2", 4, 3, 8, 5), ("3x112", 2, 1, 8, 10), ("S", 8, 4, 32, 1000),
    pytest.param(("B", 4, 4, 32, 1000), marks=pytest.mark.slow),
]  # fmt: skip


def differences(net):
    """Largest difference of the outputs, with the paper's frequencies and with diffusers' own."""
    x, t, y = inputs(net)
    theirs, labels = to_transformer(net), torch.where(y == net.classes, NULL, y)
    expected = net.net()(x, t, y)
    assert expected.std() > 0.1
    stock = theirs(x, t, class_labels=labels).sample
    paper = space_frequencies(theirs)(x, t, class_labels=labels).sample
    return (paper - expected).abs().max().item(), (stock - expected).abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}/{shape[1]}")
def test_diffusers_computes_the_same(shape):
    """Given the same timestep frequencies. The other half is here to be noticed, should diffusers change them."""
    paper, stock = differences(network(*shape))
    assert paper < 5e-6 and stock > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("name", PREDICTS)
def test_diffusers_has_the_same_loss(name):
    net = network(diffusion__objective=name)
    x0, _, y = inputs(net)
    noise, index = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 10, 500, 999])
    ours = objective(net.diffusion).loss(net.net(), x0, y, index, noise).mse
    theirs, scheduler = space_frequencies(to_transformer(net)), DDPMScheduler.from_config(to_scheduler(net).config)
    target = scheduler.get_velocity(x0, noise, index) if name == "v" else noise
    labels = torch.where(y == net.classes, NULL, y)
    predicted = theirs(scheduler.add_noise(x0, noise, index), index, class_labels=labels).sample[:, : net.channels]
    each = F.mse_loss(predicted, target, reduction="none").mean((1, 2, 3))
    torch.testing.assert_close(ours, each, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1000, 250, 10])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_there_and_come_back(name, steps):
    net = network(diffusion__schedule=name, diffusion__timesteps=steps, evaluate__steps=1)
    there = to_scheduler(net)
    torch.testing.assert_close(there.alphas_cumprod, process(name, steps).abar.float(), rtol=2e-4, atol=1e-9)
    assert diffusion_of(there, 3, 6) == Diffusion(schedule=name, timesteps=steps)


@pytest.mark.parametrize("name", PREDICTS)
def test_objectives_go_there_and_come_back(name):
    there = to_scheduler(network(diffusion__objective=name))
    assert diffusion_of(there, 3, kind(name).outputs(3)) == Diffusion(objective=name)


def test_every_schedule_has_words_in_diffusers():
    assert BETAS.keys() == SCHEDULES.keys()


# diffusers: sampling


def worst_step(net, scheduler, ours, x, y, **options):
    """Largest difference of a step of ours from one of a scheduler of diffusers', from where ours has come to.

    Relative where x is above 1: that of a made-up network grows.
    """
    transformer, worst = space_frequencies(to_transformer(net)), 0.0
    for t, after in zip(scheduler.timesteps, ours, strict=True):
        output = transformer(x, t.expand(len(x)), class_labels=y).sample
        if isinstance(scheduler, DDIMScheduler):
            output = output[:, : x.shape[1]]
        theirs = scheduler.step(output, t, x, **options).prev_sample
        worst = max(worst, ((after - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item())
        x = after
    return worst


@torch.no_grad()
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize(
    ("name", "variance"), [("ddpm", "learned_range"), ("noise", "fixed_small"), ("v", "fixed_small")]
)
def test_their_ddpm_takes_the_same_steps(name, variance, bounded):
    """What a user of an exported folder does to have a learned covariance, which the pipeline throws away."""
    net, y = network(diffusion__objective=name), torch.tensor([0, 3])
    x, _, _ = inputs(net, count=2)
    theirs = DDPMScheduler.from_config(
        to_scheduler(net).config, variance_type=variance, timestep_spacing="linspace", clip_sample=bounded
    )
    theirs.set_timesteps(50)
    rngs = [torch.Generator().manual_seed(4) for _ in range(2)]
    ours = SAMPLERS["ddpm"].walk(
        objective(net.diffusion), net.net(), x, y, 50, bounded, lambda: torch.randn(x.shape, generator=rngs[0])
    )
    assert worst_step(net, theirs, ours, x, y, generator=rngs[1]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("name", PREDICTS)
def test_their_ddim_takes_our_steps_on_their_timesteps(name, bounded):
    """Their stride differs from ours, and so does what they do where the predicted image is clipped, unless told."""
    net, y = network(diffusion__objective=name), torch.tensor([0, 3])
    x, _, _ = inputs(net, count=2)
    theirs = DDIMScheduler.from_config(to_scheduler(net).config, clip_sample=bounded)
    theirs.set_timesteps(50)
    visited = theirs.timesteps.flip(0)
    on_theirs = kind(name)(net.diffusion, "cpu", _process(process().abar[visited], visited))
    ours = SAMPLERS["ddim"].walk(on_theirs, net.net(), x, y, 50, bounded, lambda: None)
    assert worst_step(net, theirs, ours, x, y, use_clipped_model_output=bounded) < 1e-5


@pytest.mark.parametrize("steps", [*range(1, 60), 250, 999, 1000])
def test_the_shipped_ddim_visits_our_timesteps(steps):
    shipped = PaperDiTPipeline(to_transformer(network()), identity(3, 8), DDIMScheduler()).scheduler
    shipped.set_timesteps(steps)
    assert torch.equal(shipped.timesteps.flip(0), process().respaced(steps).timestep)


# diffusers: folders


def small_coder(folder, channels):
    """The folder of a made-up autoencoder that halves the side of RGB images."""
    torch.manual_seed(0)
    coder = AutoencoderKL(
        latent_channels=channels, block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, scaling_factor=0.3,
    )  # fmt: skip
    coder.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def latents_folder(tmp_path_factory):
    return small_coder(tmp_path_factory.mktemp("autoencoder"), 4)


def images_of(folder, seed, **options):
    """(N, C, S, S) in [0, 1] of the folder's pipeline, loaded as its own file says or, `plain`, as any folder is."""
    loading = {} if options.pop("plain", False) else {"custom_pipeline": "pipeline", "trust_remote_code": True}
    pipe = DiTPipeline.from_pretrained(folder, **loading)
    pipe.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(seed)
    return pipe(class_labels=[0, 3, 4], generator=rng, output_type="pt", **options).images, pipe


def our_images(net, seed, steps, scale):
    rng, y = torch.Generator().manual_seed(seed), torch.tensor([0, 3, 4])
    model = guided(net.net(), net.classes, scale)
    x = sample(
        objective(net.diffusion), model, y, "ddim", steps, net.bounded,
        lambda: torch.randn((len(y), *net.shape), generator=rng),
    )  # fmt: skip
    if net.coder:
        coder = autoencoder.load(str(net.coder)).net
        with torch.no_grad():
            x = coder.decode(x / coder.config.scaling_factor).sample
    return (x / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(("channels", "bounded"), [(1, True), (3, True), (4, False)])
@pytest.mark.parametrize("name", PREDICTS)
def test_an_exported_folder_draws_our_images(tmp_path, latents_folder, channels, bounded, scale, name):
    names = ("T-shirt/top", "Trouser", "Bag", "Coat", "Boot")
    coder = None if bounded else latents_folder
    net = network(channels=channels, bounded=bounded, class_names=names, coder=coder, diffusion__objective=name)
    save_diffusers(net, tmp_path / "to")
    found, pipe = images_of(tmp_path / "to", 7, num_inference_steps=10, guidance_scale=scale)
    expected = our_images(net, 7, 10, scale)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert pipe.get_label_ids(["Trouser", "Boot"]) == [1, 4]


def test_an_exported_folder_is_one_of_plain_diffusers(tmp_path):
    net = network(bounded=True, channels=1)
    save_diffusers(net, tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "DiTPipeline"
    assert index["transformer"] == ["diffusers", "DiTTransformer2DModel"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"] and index["vae"] == ["diffusers", "AutoencoderKL"]
    images, pipe = images_of(tmp_path, 7, plain=True, num_inference_steps=10, guidance_scale=3.0)
    assert type(pipe) is DiTPipeline and type(pipe.scheduler) is DDIMScheduler and not pipe.scheduler.config.clip_sample
    assert images.shape == (3, 1, 8, 8) and images.std() > 0.1
    assert pipe(class_labels=[1], num_inference_steps=2).images[0].size == (8, 8)


def test_another_scheduler_is_left_as_it_is():
    theirs = DDPMScheduler()
    assert PaperDiTPipeline(to_transformer(network()), identity(3, 8), theirs).scheduler is theirs


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_autoencoder_of_pixels_changes_nothing(channels):
    net = identity(channels, 32)
    rng = torch.Generator().manual_seed(0)
    flat, noise = torch.ones(1, channels, 32, 32), torch.rand(2, channels, 32, 32, generator=rng) * 2 - 1
    for x in (flat, -flat, 0 * flat, noise, noise * flat.cumsum(-1) / 32):
        torch.testing.assert_close(net.decode(x).sample, x, atol=1e-5, rtol=0)
        torch.testing.assert_close(net.encode(x).latent_dist.sample(), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fields", [
    {}, {"channels": 1, "bounded": True, "class_names": ("a", "b", "c", "d", "e")}, {"patch": 2, "classes": 1},
    {"classes": NULL}, {"diffusion__objective": "noise", "diffusion__schedule": "cosine"},
    {"diffusion__objective": "v", "diffusion__schedule": "scaled_linear", "diffusion__timesteps": 250},
])  # fmt: skip
def test_there_and_back_nothing_of_a_folder_changes(tmp_path, fields):
    net = network(**fields)
    net = replace(net, coder=None if net.bounded else small_coder(tmp_path / "coder", net.channels))
    back = load_diffusers(save_diffusers(net, tmp_path / "to"))
    assert equal(back, net)
    assert equal(load_diffusers(save_diffusers(back, tmp_path / "again")), net)


def spoiled(folder, change):
    """The folder with the state of its transformer changed."""
    transformer = DiTTransformer2DModel.from_pretrained(folder / "transformer", low_cpu_mem_usage=False)
    change(transformer.state_dict())
    transformer.save_pretrained(folder / "transformer")


def edited(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


BLOCK_1 = "transformer_blocks.1.norm1.emb"
FOLDERS = {
    "timesteps differ": (
        lambda f: spoiled(f, lambda s: s[f"{BLOCK_1}.timestep_embedder.linear_1.weight"].mul_(1.01)),
        f"{BLOCK_1}.timestep_embedder.linear_1.weight differs from that of block 0; allowed: the same in every block"),
    "labels differ": (
        lambda f: spoiled(f, lambda s: s[f"{BLOCK_1}.class_embedder.embedding_table.weight"][2].add_(1)),
        f"{BLOCK_1}.class_embedder.embedding_table.weight differs from that of block 0"),
    "activation": (
        lambda f: edited(f / "transformer" / "config.json", activation_fn="gelu"),
        "activation_fn: 'gelu' is unknown to this project; allowed: 'gelu-approximate'"),
    "norm": (
        lambda f: edited(f / "transformer" / "config.json", norm_type="layer_norm"), "not a folder of DiTPipeline"),
    "depth": (lambda f: edited(f / "transformer" / "config.json", num_layers=3), "are not those of its config"),
    "channels": (lambda f: edited(f / "transformer" / "config.json", out_channels=9), "not a folder of DiTPipeline"),
    "image": (
        lambda f: edited(f / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        "scheduler: it predicts 'sample'; allowed: epsilon, v_prediction"),
    "velocity with covariance": (
        lambda f: edited(f / "scheduler" / "scheduler_config.json", prediction_type="v_prediction"),
        "channels out: 6; allowed: 3 (objective v)"),
    "betas": (
        lambda f: edited(f / "scheduler" / "scheduler_config.json", beta_end=0.03),
        "scheduler: its betas are of an unknown schedule; allowed: linear, scaled_linear, cosine"),
    "no weights": (
        lambda f: (f / "transformer" / "diffusion_pytorch_model.safetensors").unlink(), "not a folder of DiTPipeline"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "not a folder of DiTPipeline"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_of_another_model_is_refused(tmp_path, change, words):
    save_diffusers(network(bounded=True), tmp_path)
    change(tmp_path)
    with pytest.raises(ConfigError) as error:
        load_diffusers(tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


# What cannot be exported

LOST = "would be lost, since the official layout holds weights alone; allowed"
CANNOT = {
    "in-context": (["diffusers", "official"], {"model__conditioning": "in-context"},
                   "model.conditioning: 'in-context' is unknown to {}; allowed: 'adaLN-Zero'"),
    "adaLN": (["diffusers", "official"], {"model__conditioning": "adaLN"},
              "model.conditioning: 'adaLN' is unknown to {}; allowed: 'adaLN-Zero'"),
    "unet": (["diffusers", "official"], {"size": "1x32x1", "patch": 1, "model__backbone": "unet"},
             "model.backbone: 'unet' is unknown to {}; allowed: 'dit'"),
    "flow": (["diffusers"], {"diffusion__objective": "flow"},
             "diffusion.objective: 'flow' is unknown to {}; allowed: 'ddpm', 'noise', 'v'"),
    "v": (["official"], {"diffusion__objective": "v"},
          "diffusion.objective: 'v' is unknown to {}; allowed: 'ddpm', 'noise'"),
    "mlp_ratio": (["diffusers"], {"model__mlp_ratio": 2}, "model.mlp_ratio: 2.0 is unknown to {}; allowed: 4.0"),
    "classes": (["diffusers"], {"classes": 1001},
                "classes: 1001 leave no place for the null class of {}; allowed: 1000"),
    "schedule": (["official"], {"size": "1x64", "diffusion__schedule": "cosine"},
                 f"diffusion.schedule: 'cosine' {LOST}: 'linear'"),
    "timesteps": (["official"], {"size": "1x64", "diffusion__timesteps": 500},
                  f"diffusion.timesteps: 500 {LOST}: 1000"),
    "heads": (["official"], {"size": "1x64x4"},
              f"model.heads: 4 {LOST}: 1, as in the named size of depth 1 and width 64"),
    "size": (["official"], {}, f"model.heads: 2 {LOST}: a named size, and none is of depth 2 and width 32"),
}  # fmt: skip
CASES = [pytest.param(form, *case, id=f"{form}-{name}") for name, (forms, *case) in CANNOT.items() for form in forms]
WRITERS = {"diffusers": (save_diffusers, "diffusers"), "official": (save_official, "the official DiT")}


def test_every_objective_is_told_of_or_refused(tmp_path):
    """By either format; a new objective is refused until somebody gives it a word there."""
    for name in OBJECTIVES.keys() - PREDICTS.keys():
        for write, _ in WRITERS.values():
            with pytest.raises(ConfigError, match=rf"^diffusion\.objective: '{name}' is unknown to"):
                write(network("1x64", bounded=True, diffusion__objective=name), tmp_path)


@pytest.mark.parametrize(("form", "fields", "words"), CASES)
def test_what_has_no_place_elsewhere_is_refused(tmp_path, form, fields, words):
    write, program = WRITERS[form]
    with pytest.raises(ConfigError) as error:
        write(network(bounded=True, **fields), tmp_path / "to")
    assert str(error.value) == words.format(program)
    assert not (tmp_path / "to").exists()


def test_latents_need_an_autoencoder_that_fits(tmp_path, latents_folder):
    with pytest.raises(ConfigError, match=r"^--autoencoder: a network of latents needs one"):
        save_diffusers(network(), tmp_path)
    with pytest.raises(ConfigError, match=r"has latents of 4 channels; allowed: 3, the network's$"):
        save_diffusers(network(coder=latents_folder), tmp_path)
    with pytest.raises(ConfigError, match=r"is of no use to a network of pixels; allowed: none$"):
        save_diffusers(network(bounded=True, channels=4, coder=latents_folder), tmp_path)
    AutoencoderKL(latent_channels=3, shift_factor=0.5).save_pretrained(tmp_path / "shifted")
    with pytest.raises(ConfigError, match=r"shifts its latents, which DiTPipeline cannot"):
        save_diffusers(network(coder=tmp_path / "shifted"), tmp_path)


def test_weights_of_another_model_are_refused():
    net = network()
    with pytest.raises(ConfigError, match=r"^weights: embed\.bias is 5; allowed: 32$"):
        replace(net, weights=net.weights | {"embed.bias": torch.zeros(5)})
    with pytest.raises(ConfigError, match=r"^weights: extra is 1; allowed: absent$"):
        replace(net, weights=net.weights | {"extra": torch.zeros(1)})
    with pytest.raises(ConfigError, match=r"^weights: embed\.bias is absent; allowed: 32$"):
        replace(net, weights={name: w for name, w in net.weights.items() if name != "embed.bias"})


# The command line


def sent(folder, cell, seed=0):
    """Weights as a run leaves them: the folder, and what is in them."""
    outputs = kind(cell.diffusion.objective).outputs(1)
    sink, net = Memory(), stirred(build(cell.model, 1, 16, 3, outputs), cell.model.width, seed)
    send_weights(sink, net.state_dict(), cell)
    folder.mkdir(parents=True)
    for name, content in sink.files:
        (folder / os.path.basename(name)).write_bytes(content)
    return net.state_dict()


@pytest.fixture
def nowhere(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def call(*arguments):
    return CliRunner().invoke(door.app, ["export", *map(str, arguments)])


@pytest.mark.parametrize("name", ["ddpm", "noise"])
@pytest.mark.parametrize("form", WRITERS)
def test_a_folder_of_weights_is_exported(tiny, tmp_path, nowhere, form, name):
    weights = sent(tmp_path / "weights", tiny(model__size="1x64", diffusion__objective=name))
    done = call(tmp_path / "weights", "--to", tmp_path / "to", "--format", form)
    assert done.exit_code == 0, done.stderr
    made = done.stdout.strip()
    assert made == str(tmp_path / "to" if form == "diffusers" else tmp_path / "to" / "DiT-1x64-4-16x16.pt")
    back = load_diffusers(made) if form == "diffusers" else load_official(made)
    assert all(torch.equal(back.weights[key], weights[key]) for key in weights)
    assert back.diffusion == Diffusion(objective=name)
    assert (back.side, back.channels, back.classes) == (16, 1, 3)


def test_a_finished_run_is_exported_by_any_of_its_names(tiny, tmp_path, nowhere):
    out, cells = tmp_path / "out", [tiny(seed=seed, model__size="1x64") for seed in (0, 1, 2)]
    store = Store(f"sqlite:///{out.resolve() / 'mlflow.db'}", out)
    parent, runs = store.parent("s", []), {}
    for cell, name in zip(cells, ("first", "alike", "alike"), strict=True):
        runs[cell.id] = store.create(cell, name, "s", parent, {})
        weights = sent(tmp_path / cell.id, cell, seed=cell.seed)
        for file in (tmp_path / cell.id).iterdir():
            store.client.log_artifact(runs[cell.id], str(file), record.WEIGHTS)
    for cell in cells[1:]:
        store.set(runs[cell.id], "FINISHED")
    measured = store.create(tiny(seed=2, model__size="1x64", evaluate__steps=1), "measured", "s", parent, {})
    store.client.set_tag(measured, record.TAG_WEIGHTS, runs[cells[2].id])
    store.set(measured, "FINISHED")
    for wanted in (cells[2].id, runs[cells[2].id], "measured"):
        done = call(wanted, "--to", tmp_path / "to", "--format", "official", "--out", out)
        assert done.exit_code == 0, done.stderr
        back = load_official(done.stdout.strip())
        assert torch.equal(back.weights["embed.weight"], weights["embed.weight"])
    ids = ", ".join(sorted(cell.id for cell in cells[1:]))
    for wanted, words in {
        "first": "run: no finished run is called 'first'; make status SWEEP=... lists names and ids",
        "alike": f"run: several are called 'alike'; name one by its id: {ids}",
    }.items():
        refused(call(wanted, "--to", tmp_path / "no", "--out", out), words)
    assert not (tmp_path / "no").exists()


def refused(done, words):
    assert done.exit_code == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and words in line


def test_bad_exports_are_one_line(tiny, tmp_path, nowhere):
    weights, to = tmp_path / "weights", tmp_path / "to"
    sent(weights, tiny(model__size="1x64"))
    refused(call("x", "--to", to, "--out", tmp_path / "none"), f"--out: '{tmp_path / 'none'}' has no runs yet")
    refused(
        call(weights, "--to", to, "--format", "onnx"), "format: unknown format 'onnx'; allowed: diffusers, official"
    )
    refused(call(tmp_path, "--to", to), f"{tmp_path}: not the weights of a run (")
    refused(call(weights, "--to", to, "--autoencoder", tmp_path), "is of no use to a network of pixels; allowed: none")
    (tmp_path / "file").write_text("")
    for form in WRITERS:
        refused(call(weights, "--to", tmp_path / "file", "--format", form), f"--to: '{tmp_path / 'file'}' cannot be")
    assert not to.exists()
    for name, forms in {"flow": WRITERS, "edm": WRITERS, "v": ["official"]}.items():
        sent(tmp_path / name, tiny(model__size="1x64", diffusion__objective=name, evaluate__sampler="euler"))
        for form in forms:
            wanted = f"diffusion.objective: '{name}' is unknown to {WRITERS[form][1]}; allowed: "
            refused(call(tmp_path / name, "--to", to, "--format", form), wanted)
    assert not to.exists()
    (weights / "ema.safetensors").write_bytes(b"no")
    refused(call(weights, "--to", to), f"{weights}: not the weights of a run (")
    for content, words in {
        "[1]": "cannot convert",
        "no": "Expecting value",
        json.dumps(tiny().model_dump() | {"more": 1}): "more: 1: extra inputs are not permitted)",
    }.items():
        (weights / "config.json").write_text(content)
        refused(call(weights, "--to", to), f"{weights}: not the weights of a run ({words}")


def test_the_folder_of_a_run_is_a_network(tiny, tmp_path):
    weights = sent(tmp_path / "weights", tiny())
    net = load_run(tmp_path / "weights")
    assert net.model == tiny().model and net.bounded and net.diffusion == Diffusion()
    assert all(torch.equal(net.weights[name], weights[name]) for name in weights)


def test_latents_of_a_run_are_decoded_as_its_dataset_says(tiny, tmp_path, monkeypatch):
    sent(tmp_path / "weights", tiny())
    monkeypatch.setitem(DATASETS, "tiny", replace(DATASETS["tiny"], name="own", bounded=False))  # its name on disk
    assert load_run(tmp_path / "weights", tmp_path).coder is None
    beside = small_coder(tmp_path / "own" / "autoencoder", 1)
    net = load_run(tmp_path / "weights", tmp_path)
    assert net.coder == beside and not net.bounded
    assert load_diffusers(save_diffusers(net, tmp_path / "to")).coder == tmp_path / "to" / "vae"


# What the room says of itself


def test_the_example_of_the_room_runs(tmp_path, monkeypatch):
    code = "\n".join(line for line in interop.__doc__.splitlines() if line.startswith("    "))
    made = save_official(network("1x64", channels=4, classes=1000, side=8), tmp_path)
    made.rename(tmp_path / "DiT-XL-2-256x256.pt")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(textwrap.dedent(code), names)
    assert names["latents"].shape == (2, 4, 8, 8) and names["latents"].isfinite().all()
