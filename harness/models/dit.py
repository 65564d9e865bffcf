"""The Diffusion Transformer (paper section 3.2). Shape letters: see `layers.py`."""

import torch
from torch import Tensor, nn

from harness.config import Model
from harness.errors import ConfigError
from harness.naming import choose

from .conditioning import CONDITIONING
from .layers import LabelEmbedder, TimestepEmbedder, patchify, positions, unpatchify


class DiT(nn.Module):
    """What an objective asks of a noised image, be it noise or velocity: forward(x, t, y) -> (N, K, S, S).

    Args: model, its shape; channels C, side S and classes of the data; outputs K. Label `classes` is the null class.
    Raises ConfigError for an unknown conditioning or a patch that does not divide the side.
    """

    def __init__(self, model: Model, channels: int, side: int, classes: int, outputs: int):
        super().__init__()
        check_patch(model.patch, side)
        self.patch, self.width = model.patch, model.width
        self.conditioning = choose("model.conditioning", model.conditioning, CONDITIONING)
        self.embed = nn.Linear(model.patch**2 * channels, model.width)
        self.time = TimestepEmbedder(model.width)
        self.label = LabelEmbedder(classes, model.width)
        self.register_buffer("positions", positions(model.width, side // model.patch), persistent=False)
        block = self.conditioning.Block
        self.blocks = nn.ModuleList(block(model.width, model.heads, model.mlp_ratio) for _ in range(model.depth))
        self.head = self.conditioning.Head(model.width, model.patch**2 * outputs)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        x = patchify(x.to(self.embed.weight.dtype), self.patch)  # (N, T, P*P*C)
        x = self.embed(x) + self.positions  # (N, T, D)
        x, c = self.conditioning.enter(x, self.time(t), self.label(y))  # (N, T or T+2, D) and the type's own context
        for block in self.blocks:
            x = block(x, c)  # same shape in and out
        x = self.head(self.conditioning.leave(x), c)  # (N, T, P*P*K)
        return unpatchify(x, self.patch)  # (N, K, S, S)

    @torch.no_grad()
    def initialise(self, seed: int) -> "DiT":
        """Xavier-uniform linear layers, N(0, 0.02) embeddings; what must start at zero zeroes itself last."""
        rng = torch.Generator(self.embed.weight.device).manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=rng)
                nn.init.zeros_(module.bias)
        for weight in (self.label.weight, self.time.mlp[0].weight, self.time.mlp[2].weight):
            nn.init.normal_(weight, std=0.02, generator=rng)
        for module in self.modules():
            if hasattr(module, "zero_init"):
                module.zero_init()
        return self


def check_patch(patch: int, side: int) -> None:
    """Raises ConfigError if the patch does not divide the side."""
    if side % patch:
        fit = ", ".join(str(p) for p in range(1, side + 1) if side % p == 0)
        raise ConfigError(f"model.patch: {patch} does not divide the side {side}; allowed: {fit}")
