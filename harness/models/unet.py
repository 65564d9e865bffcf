"""The convolutional U-Net that the paper's transformers replace: diffusers' `UNet2DModel` in the shape of IDDPM.

That is the CIFAR-10 model of Nichol & Dhariwal (arXiv 2102.09672), which ADM grew from: residual blocks whose second
group norm is scaled and shifted by the timestep and class, self-attention at sides 16 and 8, learned covariance. It
was trained with the cosine schedule. Shape letters: see `layers.py`.
"""

import torch
from torch import Tensor, nn

from harness.config import Model
from harness.errors import ConfigError

from .layers import attend

MULTIPLIERS = (1, 2, 2, 2)  # channels of each level, in widths
ATTENTION = (16, 8)  # sides of the levels that attend, besides the middle; the outermost never does
INNERMOST = 4  # side below which no level goes


class UNet(nn.Module):
    """What an objective asks of a noised image, be it noise or velocity: forward(x, t, y) -> (N, K, S, S).

    Args: channels C, side S and classes of the data; outputs K. Label `classes` is the null class. Of `model`, `width`
    is the channels of the outermost level, `depth` the residual blocks of a level (one more on the way up) and `heads`
    the heads of each attention layer.
    Raises ConfigError for a setting that only a transformer has: a patch other than 1, and a `conditioning` or an
    `mlp_ratio` other than the default.
    """

    def __init__(self, model: Model, channels: int, side: int, classes: int, outputs: int):
        from diffusers import UNet2DModel  # takes seconds, which only its own trials should wait

        super().__init__()
        check_unused(model)
        sides = level_sides(side)
        widths = [model.width * m for m in MULTIPLIERS[: len(sides)]]
        attends = [s in ATTENTION and s != side for s in sides]
        groups = norm_groups(model.width)
        self.net = UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=outputs,  # K
            block_out_channels=tuple(widths),
            layers_per_block=model.depth,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            attention_head_dim=widths[-1] // model.heads,
            norm_num_groups=groups,
            attn_norm_num_groups=groups,
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=classes + 1,
        )
        for module in self.net.modules():
            if hasattr(module, "set_processor"):
                module.set_processor(SelfAttention())

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.net(x.to(self.net.conv_in.weight.dtype), t, class_labels=y, return_dict=False)[0]  # (N, K, S, S)

    @torch.no_grad()
    def initialise(self, seed: int) -> "UNet":
        """torch's own starting values, drawn from `seed`; the last layer of every residual branch starts at zero."""
        rng = torch.Generator(self.net.conv_in.weight.device).manual_seed(seed)
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = module.weight[0].numel() ** -0.5
                for part in (module.weight, module.bias):
                    nn.init.uniform_(part, -bound, bound, generator=rng)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=rng)
        for name, module in self.net.named_modules():
            if name.endswith(("conv2", "to_out.0", "conv_out")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        return self


class SelfAttention:
    """What a diffusers `Attention` layer does with x (N, C, S, S), by way of `attend`."""

    def __call__(self, layer: nn.Module, x: Tensor, temb: None = None, **_: None) -> Tensor:
        tokens = layer.group_norm(x).flatten(2).transpose(1, 2)  # (N, T, C)
        parts = (part(tokens).unflatten(2, (layer.heads, -1)) for part in (layer.to_q, layer.to_k, layer.to_v))
        out = attend(*(part.transpose(1, 2) for part in parts))  # (N, H, T, E)
        out = layer.to_out[0](out.transpose(1, 2).flatten(2))  # (N, T, C)
        return x + out.transpose(1, 2).unflatten(2, x.shape[2:])  # (N, C, S, S)


def level_sides(side: int) -> list[int]:
    """Sides of the levels, outermost first: halved as often as there are multipliers, and even sides of 4 or more."""
    sides = [side]
    while len(sides) < len(MULTIPLIERS) and sides[-1] % 2 == 0 and sides[-1] // 2 >= INNERMOST:
        sides.append(sides[-1] // 2)
    return sides


def norm_groups(width: int) -> int:
    """The most groups of a group norm that divide the width: at most 32, of 4 channels or more where it has them."""
    return next(groups for groups in range(max(1, min(32, width // 4)), 0, -1) if width % groups == 0)


def check_unused(model: Model) -> None:
    """Raises ConfigError if a setting is changed that the U-Net has no use for: it would name another experiment."""
    defaults = {name: Model.model_fields[name].default for name in ("conditioning", "mlp_ratio")}
    for name, allowed in {"patch": 1, **defaults}.items():
        value = getattr(model, name)
        if value != allowed:
            raise ConfigError(
                f"model.{name}: {value} is a transformer's, which backbone 'unet' is not; allowed: {allowed}"
            )
