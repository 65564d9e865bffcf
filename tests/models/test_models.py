"""What every backbone keeps to; the Diffusion Transformer's patches and conditioning, against torch and diffusers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.config import Model
from harness.diffusion.objectives.registry import OBJECTIVES
from harness.errors import ConfigError
from harness.models.conditioning import CONDITIONING
from harness.models.layers import GELU, CrossAttention, SelfAttention, attend, patchify, positions, unpatchify
from harness.models.registry import BACKBONES, build

SIDE, CLASSES = 8, 5
PATCHES = [p for p in range(1, SIDE + 1) if SIDE % p == 0]
# Every backbone with every conditioning type it has: the transformer alone has several.
KINDS = [("dit", kind) for kind in CONDITIONING] + [(name, "adaLN-Zero") for name in BACKBONES if name != "dit"]


def shape(**changes):
    patch = 1 if changes.get("backbone") == "unet" else 4
    return Model(**({"depth": 2, "width": 32, "heads": 2, "patch": patch} | changes))


def made(channels=2, seed=0, outputs=None, **changes):
    """Of noise and covariance, unless told how many outputs."""
    return build(shape(**changes), channels, SIDE, CLASSES, outputs or 2 * channels, seed)


def stirred(net, seed=1):
    """The same net with noise on every weight, so that nothing of it is zero any more."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=rng)
    return net


def inputs(channels=2, count=3):
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(count, channels, SIDE, SIDE, generator=rng)
    return x, torch.tensor([0, 500, 999])[:count], torch.tensor([0, 3, CLASSES])[:count]


# Patches and positions


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("patch", PATCHES)
def test_unpatchify_undoes_patchify(patch, channels):
    x = torch.arange(2.0 * channels * SIDE * SIDE).view(2, channels, SIDE, SIDE)
    tokens = patchify(x, patch)
    assert tokens.shape == (2, (SIDE // patch) ** 2, patch * patch * channels)
    assert torch.equal(unpatchify(tokens, patch), x)


def test_a_token_is_one_patch_and_tokens_come_in_raster_order():
    x = torch.arange(float(SIDE * SIDE)).view(1, 1, SIDE, SIDE)
    tokens = patchify(x, 4)
    assert torch.equal(tokens[0, 1], x[0, 0, :4, 4:].flatten())  # the second token: right of the first


@pytest.mark.parametrize("grid", [1, 2, 8])
def test_positions_differ_and_are_the_same_for_rows_and_columns(grid):
    table = positions(32, grid)
    assert table.shape == (grid * grid, 32)
    assert len(table.unique(dim=0)) == grid * grid
    table = table.view(grid, grid, 2, 16)
    assert torch.equal(table[:, :, 0], table[:, :, 1].transpose(0, 1))


def test_positions_are_those_of_diffusers():
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    theirs = get_2d_sincos_pos_embed(32, 4, base_size=4, output_type="pt")
    torch.testing.assert_close(positions(32, 4), theirs.float(), atol=1e-6, rtol=0)


def test_positions_are_not_trained_nor_saved():
    net = made()
    assert "positions" not in dict(net.named_parameters()) and "positions" not in net.state_dict()
    assert not net.positions.requires_grad


# Every backbone, conditioning type, patch


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONING)
@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("outputs", [3, 6])
def test_output_has_the_image_s_shape_and_the_channels_that_are_asked(conditioning, patch, outputs):
    out = made(3, outputs=outputs, conditioning=conditioning, patch=patch)(*inputs(3))
    assert out.shape == (3, outputs, SIDE, SIDE)


@pytest.mark.parametrize(("backbone", "conditioning"), KINDS)
class TestEach:
    @pytest.fixture
    def net(self, backbone, conditioning):
        return made(backbone=backbone, conditioning=conditioning)

    def test_output_is_zero_at_the_start(self, net):
        assert not net(*inputs()).any()

    @torch.no_grad()
    def test_timestep_and_label_are_heard(self, net):
        x, t, y = inputs()
        net, x = stirred(net), x[:1].expand(3, -1, -1, -1)
        for out in (net(x, t, y[:1].expand(3)), net(x, t[:1].expand(3), y)):
            assert min(abs(out[0] - out[1]).max(), abs(out[1] - out[2]).max()) > 1e-3

    @torch.no_grad()
    def test_every_pixel_is_heard_everywhere(self, net):
        x, t, y = inputs(count=1)
        net, other = stirred(net), x.clone()
        other[..., 0, 0] += 1
        assert ((net(x, t, y) - net(other, t, y)) != 0).all()

    @torch.no_grad()
    def test_an_image_does_not_hear_the_others_of_its_batch(self, net):
        x, t, y = inputs()
        net = stirred(net)
        torch.testing.assert_close(net(x, t, y)[1:2], net(x[1:2], t[1:2], y[1:2]), atol=1e-5, rtol=1e-5)

    def test_every_weight_is_trained(self, net):
        net = stirred(net)
        net(*inputs()).square().mean().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_seed_decides_and_the_global_stream_is_left_alone(self, net, backbone, conditioning):
        torch.manual_seed(7)
        before = torch.get_rng_state()
        again, other = (made(seed=seed, backbone=backbone, conditioning=conditioning) for seed in (0, 1))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(8)
        assert all(map(torch.equal, again.state_dict().values(), net.state_dict().values()))
        assert not all(map(torch.equal, other.state_dict().values(), net.state_dict().values()))

    @torch.no_grad()
    def test_bf16_is_close_to_fp32(self, net):
        x, t, y = inputs()
        exact = stirred(net)(x, t, y)
        rough = net.bfloat16()(x, t, y)
        assert rough.dtype == torch.bfloat16
        assert (rough - exact).norm() / exact.norm() < 0.03

    def test_the_null_class_is_one_of_its_own(self, net):
        net = stirred(net)
        x, t, _ = inputs(count=1)
        outputs = [net(x, t, torch.tensor([label])) for label in range(CLASSES + 1)]
        assert all(not torch.equal(outputs[-1], other) for other in outputs[:-1])
        with pytest.raises(IndexError):
            net(x, t, torch.tensor([CLASSES + 1]))

    @pytest.mark.parametrize("objective", OBJECTIVES)
    @pytest.mark.parametrize("channels", [1, 4])
    def test_outputs_are_those_of_every_objective(self, backbone, conditioning, channels, objective):
        outputs = OBJECTIVES[objective].outputs(channels)
        net = made(channels, outputs=outputs, backbone=backbone, conditioning=conditioning)
        assert net(*inputs(channels)).shape == (3, outputs, SIDE, SIDE)

    @torch.no_grad()
    def test_times_may_lie_between_timesteps_and_below_zero(self, net):
        """As continuous objectives tell them: t of `flow` times a thousand, 250 ln(sigma) of `edm`."""
        net, (x, _, y) = stirred(net), inputs()
        x, y = x[:1].expand(3, -1, -1, -1), y[:1].expand(3)
        out = net(x, torch.tensor([500.5, 500.0, -1500.0]), y)
        assert out.isfinite().all()
        assert (out[0] - out[1]).abs().max() > 1e-4 and (out[2] - out[1]).abs().max() > 1e-3
        torch.testing.assert_close(out[1:2], net(x[:1], torch.tensor([500]), y[:1]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_a_sequence_leaves_as_long_as_it_came(conditioning):
    kind = CONDITIONING[conditioning]
    x, t, y = torch.randn(2, 9, 32), torch.randn(2, 32), torch.randn(2, 32)
    entered, c = kind.enter(x, t, y)
    assert entered.shape[1] == 11 if conditioning == "in-context" else torch.equal(entered, x)
    assert torch.equal(kind.leave(entered), x)
    if conditioning == "cross-attention":
        assert c.shape == (2, 2, 32)


# Starting values


@pytest.mark.parametrize(("conditioning", "identity"), [("adaLN-Zero", True), ("adaLN", False)])
def test_adaln_zero_blocks_alone_start_as_the_identity(conditioning, identity):
    """The starting values of all linear layers must not undo the zeros, as in a published implementation they do."""
    net = made(conditioning=conditioning)
    x, c = torch.randn(2, 4, 32), torch.randn(2, 32)
    for block in net.blocks:
        assert torch.equal(block(x, c), x) == identity
        assert bool(block.modulation.weight.any()) != identity


@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_linear_layers_start_xavier_uniform_and_embeddings_small(conditioning):
    """Of a uniform distribution on [-a, a], a^2 = 6 / (in + out), as in the paper's implementation."""
    net = made(width=128, heads=2, conditioning=conditioning)
    for block in net.blocks:
        for linear in (block.attention.qkv, block.attention.out, block.mlp[0], block.mlp[2]):
            bound = (6 / sum(linear.weight.shape)) ** 0.5
            assert 0.98 * bound < linear.weight.abs().max() <= bound
            assert not linear.bias.any()
    for weight in (net.label.weight, net.time.mlp[0].weight, net.time.mlp[2].weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.15)


# Bad settings


def test_a_patch_that_does_not_divide_the_side_is_refused():
    with pytest.raises(ConfigError, match=r"^model\.patch: 3 does not divide the side 8; allowed: 1, 2, 4, 8$"):
        made(patch=3)


def test_an_unknown_backbone_is_refused():
    known = ", ".join(BACKBONES)
    with pytest.raises(
        ConfigError, match=rf"^model\.backbone: unknown backbone 'resnet'; allowed: {known}, or your own as "
    ):
        made(backbone="resnet")


# Against other people's implementations


def test_gelu_is_the_tanh_form_and_its_bf16_shortcut_rounds_alike():
    x = torch.linspace(-8, 8, 100_001)
    tanh = F.gelu(x, approximate="tanh")
    assert torch.equal(GELU()(x), tanh)
    short, plain = GELU()(x.bfloat16()).float(), F.gelu(x.bfloat16(), approximate="tanh").float()
    assert (short - plain).abs().max() <= 2**-6  # one bf16 step of values up to 4: never more than the last digit
    off = (F.gelu(x.double()) - F.gelu(x.double(), approximate="tanh")).abs()
    assert 4e-4 < off.max() < 5e-4  # as its comment says


@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_bf16_lies_on_fp32_within_its_rounding(conditioning):
    net = stirred(made(conditioning=conditioning))
    x, t, y = inputs()
    plain = net(x, t, y)
    fast = made(conditioning=conditioning, seed=None).to(torch.bfloat16)
    fast.load_state_dict(net.state_dict())
    assert (fast(x, t, y).float() - plain).norm() < 0.03 * plain.norm()


@pytest.mark.parametrize("context", [9, 2])
def test_attention_is_softmax_attention(context):
    q, k, v = torch.randn(2, 3, 9, 16), torch.randn(2, 3, context, 16), torch.randn(2, 3, context, 16)
    torch.testing.assert_close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


@torch.no_grad()
def test_attention_layers_are_torch_s_multihead_attention():
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    ours, cross = SelfAttention(32, 4), CrossAttention(32, 4)
    nn.init.normal_(theirs.in_proj_bias)
    for layer, part in ((ours.qkv, slice(None)), (cross.q, slice(32)), (cross.kv, slice(32, None))):
        layer.weight.copy_(theirs.in_proj_weight[part])
        layer.bias.copy_(theirs.in_proj_bias[part])
    for layer in (ours, cross):
        layer.out.load_state_dict(theirs.out_proj.state_dict())
    x, context = torch.randn(2, 9, 32), torch.randn(2, 2, 32)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cross(x, context), theirs(x, context, context)[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_adaln_zero_is_the_dit_of_diffusers():
    """The whole network, weights carried over, once its timestep frequencies are spaced as in the paper's own code."""
    from diffusers import DiTTransformer2DModel

    net = stirred(made(4))
    theirs = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=SIDE,
        patch_size=4, num_embeds_ada_norm=CLASSES, norm_eps=1e-6,
    ).eval()  # fmt: skip
    ours = net.state_dict()
    patches = ours["embed.weight"].view(32, 4, 4, 4).permute(0, 3, 1, 2)  # a linear layer of a patch is a convolution
    saved = {"pos_embed.proj.weight": patches, "pos_embed.proj.bias": ours["embed.bias"]}
    for part in ("weight", "bias"):
        saved[f"proj_out_1.{part}"] = ours[f"head.modulation.{part}"]
        saved[f"proj_out_2.{part}"] = ours[f"head.linear.{part}"]
        for i in range(2):
            to, at = f"transformer_blocks.{i}", f"blocks.{i}"
            q, k, v = ours[f"{at}.attention.qkv.{part}"].chunk(3)
            saved |= {
                f"{to}.norm1.emb.timestep_embedder.linear_1.{part}": ours[f"time.mlp.0.{part}"],
                f"{to}.norm1.emb.timestep_embedder.linear_2.{part}": ours[f"time.mlp.2.{part}"],
                f"{to}.norm1.emb.class_embedder.embedding_table.weight": ours["label.weight"],
                f"{to}.norm1.linear.{part}": ours[f"{at}.modulation.{part}"],
                f"{to}.attn1.to_q.{part}": q, f"{to}.attn1.to_k.{part}": k, f"{to}.attn1.to_v.{part}": v,
                f"{to}.attn1.to_out.0.{part}": ours[f"{at}.attention.out.{part}"],
                f"{to}.ff.net.0.proj.{part}": ours[f"{at}.mlp.0.{part}"],
                f"{to}.ff.net.2.{part}": ours[f"{at}.mlp.2.{part}"],
            }  # fmt: skip
    theirs.load_state_dict(saved)
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    x, t, y = inputs(4)
    found, expected = net.double()(x, t, y), theirs.double()(x.double(), t, class_labels=y).sample
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
