"""The U-Net: its levels, its starting values, and its Gflops against a closed form written here and a published one."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness.config import Model, make
from harness.cost import cost
from harness.errors import ConfigError
from harness.models.registry import build
from harness.models.unet import level_sides, norm_groups
from harness.tracking.sinks import Memory
from harness.trial import run


def made(side=32, channels=1, seed=0, **changes):
    shape = {"backbone": "unet", "depth": 1, "width": 16, "heads": 1, "patch": 1} | changes
    return build(Model(**shape), channels, side, 10, 2 * channels, seed)


def trial(size, dataset="fashion-mnist", **fields):
    fields = {name.replace("__", "."): value for name, value in fields.items()}
    return make({"model.backbone": "unet", "model.size": size, "model.patch": 1, "data.dataset": dataset} | fields)


# Shape


@pytest.mark.parametrize(
    ("side", "expected"),
    [(32, [32, 16, 8, 4]), (64, [64, 32, 16, 8]), (16, [16, 8, 4]), (8, [8, 4]), (28, [28, 14, 7]), (5, [5])],
)
def test_levels_halve_the_side_while_it_is_even_and_stays_four(side, expected):
    assert level_sides(side) == expected
    assert made(side)(torch.randn(1, 1, side, side), torch.tensor([3]), torch.tensor([0])).shape == (1, 2, side, side)


def test_width_is_doubled_once_and_sides_16_and_8_attend():
    net = made(width=32, heads=2, depth=3).net
    levels = [level.resnets[0].out_channels for level in net.down_blocks]
    assert levels == [32, 64, 64, 64]
    assert [hasattr(level, "attentions") for level in net.down_blocks] == [False, True, True, False]
    assert [hasattr(level, "attentions") for level in net.up_blocks] == [False, True, True, False]
    assert [len(level.resnets) for level in net.down_blocks] == [3] * 4
    assert [len(level.resnets) for level in net.up_blocks] == [4] * 4
    assert {m.heads for m in net.modules() if type(m).__name__ == "Attention"} == {2}


@pytest.mark.parametrize(
    ("width", "groups"),
    [(2, 1), (4, 1), (8, 2), (14, 2), (16, 4), (24, 6), (32, 8), (44, 11), (128, 32), (136, 17), (256, 32)],
)
def test_group_norms_have_four_channels_a_group_or_more(width, groups):
    assert norm_groups(width) == groups


def test_every_norm_is_a_group_norm_of_the_same_groups():
    norms = [m for m in made(width=24).net.modules() if isinstance(m, nn.GroupNorm)]
    assert {m.num_groups for m in norms} == {6}
    attentions = [m for m in made(width=24).net.modules() if type(m).__name__ == "Attention"]
    assert attentions and all(m.group_norm is not None for m in attentions)  # the middle's too


# Starting values


def test_layers_start_as_torch_starts_them_and_residual_branches_at_zero():
    net = made(width=32).net
    zeros = {name for name, m in net.named_modules() if hasattr(m, "weight") and not m.weight.any()}
    assert zeros == {
        name for name, _ in net.named_modules() if name.endswith(("conv2", "to_out.0")) or name == "conv_out"
    }
    assert len(zeros) == 4 + 2 * 4 + 2 + 2 + 2 * 2 + 1 + 1  # blocks down, up, middle; attentions down, up, middle; last
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and name not in zeros:
            bound = layer.weight[0].numel() ** -0.5  # of kaiming_uniform_ with a = sqrt(5), as in torch
            assert 0.9 * bound < layer.weight.abs().max() <= bound and layer.bias.abs().max() <= bound
    assert net.class_embedding.weight.std().item() == pytest.approx(1, rel=0.1)
    assert net.class_embedding.weight.shape == (11, 4 * 32)


@torch.no_grad()
def test_its_attention_is_that_of_diffusers():
    from diffusers.models.attention_processor import AttnProcessor2_0

    net = made(width=32, heads=2)
    for p in net.parameters():
        p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    x, t, y = torch.randn(2, 1, 32, 32), torch.tensor([3, 900]), torch.tensor([0, 10])
    ours = net(x, t, y)
    layers = [m for m in net.modules() if type(m).__name__ == "Attention"]
    for layer in layers:
        layer.set_processor(AttnProcessor2_0())
    assert len(layers) == 7 and ours.std() > 0.1
    torch.testing.assert_close(net(x, t, y), ours, atol=1e-4, rtol=1e-4)


# Settings that are a transformer's


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 2}, "model.patch: 2 is a transformer's, which backbone 'unet' is not; allowed: 1"),
        ({"conditioning": "adaLN"}, "model.conditioning: adaLN is a transformer's, .*; allowed: adaLN-Zero"),
        ({"mlp_ratio": 2.0}, r"model.mlp_ratio: 2.0 is a transformer's, .*; allowed: 4.0"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        made(**changes)


def test_it_is_named_without_patch_and_conditioning():
    assert trial("2x128x4", seed=3).name == "unet-2x128x4 seed 3"


# Gflops


def convolution(side, inputs, outputs, kernel=3):
    return side**2 * inputs * outputs * kernel**2


def block(side, inputs, outputs, embedded):
    """A residual block: two convolutions, the scale and shift of its norm, a shortcut where channels change."""
    shortcut = convolution(side, inputs, outputs, 1) if inputs != outputs else 0
    both = convolution(side, inputs, outputs) + convolution(side, outputs, outputs)
    return both + embedded * 2 * outputs + shortcut


def attention(side, channels):
    tokens = side**2
    return 4 * tokens * channels**2 + 2 * tokens**2 * channels  # q, k, v and out; the two matmuls


def multiply_adds(depth, width, channels):
    """Forward of one 32x32 image, level by level."""
    levels = [(32, width), (16, 2 * width), (8, 2 * width), (4, 2 * width)]
    embedded = 4 * width
    total = width * embedded + embedded**2  # the timestep's MLP
    total += convolution(32, channels, width) + convolution(32, width, 2 * channels)  # noise and covariance
    skips = [width]
    before = width
    for place, (side, now) in enumerate(levels):
        for _ in range(depth):
            total += block(side, before, now, embedded) + (attention(side, now) if side in (16, 8) else 0)
            skips.append(now)
            before = now
        if place < 3:
            total += convolution(side // 2, now, now)
            skips.append(now)
    total += 2 * block(4, before, before, embedded) + attention(4, before)
    for place, (side, now) in reversed(list(enumerate(levels))):
        for _ in range(depth + 1):
            total += block(side, before + skips.pop(), now, embedded) + (attention(side, now) if side in (16, 8) else 0)
            before = now
        if place > 0:
            total += convolution(side * 2, now, now)
    assert not skips
    return total


@pytest.mark.parametrize(("dataset", "channels"), [("fashion-mnist", 1), ("imagenet-256-latents", 4)])
@pytest.mark.parametrize(("depth", "width", "heads"), [(1, 14, 1), (2, 24, 2), (3, 128, 4)])
def test_counts_are_the_closed_form(depth, width, heads, dataset, channels):
    priced = cost(trial(f"{depth}x{width}x{heads}", dataset))
    assert priced.gflops * 1e9 == pytest.approx(multiply_adds(depth, width, channels), rel=1e-9)
    assert priced.tokens == 32 * 32


def test_convolutions_count_as_published():
    """DDPM's CIFAR-10 model: 35.7 million parameters and 6.1 G multiply-adds (Fang et al., arXiv 2305.10924, Table 1).

    They were counted layer by layer, so without attention's two matmuls.
    """
    from diffusers import UNet2DModel

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = UNet2DModel(
            sample_size=32, block_out_channels=(128, 256, 256, 256), layers_per_block=2, attention_head_dim=None,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        net(torch.empty(1, 3, 32, 32), torch.zeros(1))
    layers = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "bmm" not in str(op))
    assert layers / 2e9 == pytest.approx(6.1, abs=0.05)
    assert (counter.get_total_flops() - layers) / 2 == pytest.approx(5 * 2 * 256**2 * 256 + 2 * 16**2 * 256)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(35.7, abs=0.05)


# Training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_trial_trains_it_and_measures_it(tiny, place, precision):
    cell = tiny(
        model__backbone="unet", model__size="1x16x1", model__patch=1, train__precision=precision, evaluate__points=1
    )
    sink = Memory()
    run(cell, sink, place, "cpu")
    losses = [metrics["loss"] for _, metrics in sink.metrics if "loss" in metrics]
    assert losses[-1] < 0.9 * losses[0]
    assert sink.metrics[-1][1]["fid"] > 0
