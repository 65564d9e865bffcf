"""The paper's four ways to tell a transformer the timestep and the class (section 3.2, Figure 3).

Each type is three things: `enter` turns the embedded timestep and label into what the blocks read, `Block` is the
transformer block, `Head` the last layer. A class that must start at zero says so in `zero_init`, which runs after
every other initialisation. Shape letters: see `layers.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import CrossAttention, Mlp, SelfAttention


def norm(width: int, affine: bool) -> nn.LayerNorm:
    return nn.LayerNorm(width, elementwise_affine=affine, eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (N, T, D), shift and scale (N, 1, D) -> (N, T, D)."""
    return torch.addcmul(shift, x, 1 + scale)  # (N, T, D), one pass and one rounding


class PlainHead(nn.Module):
    """Final norm and linear layer of a standard ViT; the linear layer starts at zero: (N, T, D) -> (N, T, P*P*K)."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm = norm(width, affine=True)
        self.linear = nn.Linear(width, out)

    def zero_init(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.linear(self.norm(x))  # (N, T, P*P*K)


class AdaptiveHead(nn.Module):
    """Final layer of the adaLN types: the norm's shift and scale come from c (N, D). Starts at zero."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm = norm(width, affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, out)

    def zero_init(self) -> None:
        for layer in (self.modulation, self.linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=-1)  # (N, 1, D) each
        return self.linear(modulate(self.norm(x), shift, scale))  # (N, T, P*P*K)


class PlainBlock(nn.Module):
    """A standard pre-norm ViT block; it reads nothing but its tokens."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1, self.norm2 = norm(width, affine=True), norm(width, affine=True)
        self.attention = SelfAttention(width, heads)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))  # (N, T, D)
        return x + self.mlp(self.norm2(x))  # (N, T, D)


class CrossAttentionBlock(PlainBlock):
    """A ViT block with a cross-attention layer after self-attention; c is the context (N, 2, D)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__(width, heads, mlp_ratio)
        self.norm_cross = norm(width, affine=True)
        self.cross = CrossAttention(width, heads)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))  # (N, T, D)
        x = x + self.cross(self.norm_cross(x), c)  # (N, T, D)
        return x + self.mlp(self.norm2(x))  # (N, T, D)


class AdaLNBlock(nn.Module):
    """Norms whose shift and scale are regressed from c (N, D)."""

    outputs = 4  # shift and scale of two norms

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm = norm(width, affine=False)  # no parameters, so one serves both places
        self.attention = SelfAttention(width, heads)
        self.mlp = Mlp(width, mlp_ratio)
        self.modulation = nn.Linear(width, self.outputs * width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, shift2, scale2 = self.modulation(c)[:, None].chunk(4, dim=-1)  # (N, 1, D) each
        x = x + self.attention(modulate(self.norm(x), shift1, scale1))  # (N, T, D)
        return x + self.mlp(modulate(self.norm(x), shift2, scale2))  # (N, T, D)


class AdaLNZeroBlock(AdaLNBlock):
    """adaLN with a gate before each residual, all six regressed by a layer that starts at zero: an identity block."""

    outputs = 6  # shift, scale and gate of two branches

    def zero_init(self) -> None:
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)[:, None].chunk(6, dim=-1)  # (N, 1, D) each
        x = torch.addcmul(x, gate1, self.attention(modulate(self.norm(x), shift1, scale1)))  # (N, T, D)
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm(x), shift2, scale2)))  # (N, T, D)


class AdaLNZero:
    """The paper's choice: adaptive layer norm whose blocks start as the identity."""

    Block, Head = AdaLNZeroBlock, AdaptiveHead

    @staticmethod
    def enter(x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, T, D), t and y (N, D) -> x unchanged, c (N, D)."""
        return x, F.silu(t + y)

    @staticmethod
    def leave(x: Tensor) -> Tensor:
        return x


class AdaLN(AdaLNZero):
    """Adaptive layer norm without gates."""

    Block = AdaLNBlock


class CrossAttended:
    """Timestep and label as a context of two tokens, read by cross-attention."""

    Block, Head = CrossAttentionBlock, PlainHead

    @staticmethod
    def enter(x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, T, D), t and y (N, D) -> x unchanged, c (N, 2, D)."""
        return x, torch.stack([t, y], dim=1)

    @staticmethod
    def leave(x: Tensor) -> Tensor:
        return x


class InContext:
    """Timestep and label as two more tokens of the sequence, dropped after the last block."""

    Block, Head = PlainBlock, PlainHead

    @staticmethod
    def enter(x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, T, D), t and y (N, D) -> x (N, T+2, D), c (N, D) which the blocks do not read."""
        return torch.cat([x, t[:, None], y[:, None]], dim=1), t

    @staticmethod
    def leave(x: Tensor) -> Tensor:
        """(N, T+2, D) -> (N, T, D)."""
        return x[:, :-2]


CONDITIONING = {
    "in-context": InContext,
    "cross-attention": CrossAttended,
    "adaLN": AdaLN,
    "adaLN-Zero": AdaLNZero,
}
