"""The parts every Diffusion Transformer shares.

Shape letters, here and in the files beside it:
    N images in the batch    T tokens of an image (= G*G)    D width    H heads    E = D/H channels of a head
    C channels in            K channels out, which the objective names
    S side of the image      P side of a patch               G = S/P patches a side
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 256  # width of the sinusoidal timestep features, as in the paper's implementation


def patchify(x: Tensor, patch: int) -> Tensor:
    """(N, C, S, S) -> (N, T, P*P*C), patches in raster order (paper section 3.2, Figure 4)."""
    n, c, s, _ = x.shape
    g = s // patch
    x = x.view(n, c, g, patch, g, patch)  # (N, C, G, P, G, P)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, g * g, patch * patch * c)  # (N, T, P*P*C)


def unpatchify(x: Tensor, patch: int) -> Tensor:
    """(N, T, P*P*K) -> (N, K, S, S): the inverse of `patchify`."""
    n, t, values = x.shape
    g, k = math.isqrt(t), values // patch**2
    x = x.view(n, g, g, patch, patch, k)  # (N, G, G, P, P, K)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(n, k, g * patch, g * patch)  # (N, K, S, S)


def positions(width: int, grid: int) -> Tensor:
    """Fixed 2-D sin-cos positions, (T, D): half the channels for the row, half for the column (section 3.2)."""
    omega = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))  # (D/4,)
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * omega  # (G, D/4)
    line = torch.cat([angle.sin(), angle.cos()], dim=1)  # (G, D/2)
    row = line[None, :, :].expand(grid, grid, -1)  # (G, G, D/2), varies along a row of patches
    column = line[:, None, :].expand(grid, grid, -1)  # (G, G, D/2), varies down the rows
    return torch.cat([row, column], dim=2).reshape(grid * grid, width).float()  # (T, D)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention: q (N, H, T, E), k and v (N, H, U, E) -> (N, H, T, E).

    On a CPU two plain matmuls: at these lengths they and their backward beat the fused kernel, which has no fast
    bf16 path there.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (N, H, T, U)
    return scores.softmax(dim=-1) @ v


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases, as in ViT."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        qkv = self.qkv(x).view(n, t, 3, self.heads, d // self.heads)  # (N, T, 3, H, E)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (N, H, T, E) each
        x = attend(q, k, v).transpose(1, 2).reshape(n, t, d)  # (N, T, D)
        return self.out(x)  # (N, T, D)


class CrossAttention(nn.Module):
    """Multi-head attention from the image's tokens to a context of U tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        n, t, d = x.shape
        q = self.q(x).view(n, t, self.heads, -1).transpose(1, 2)  # (N, H, T, E)
        kv = self.kv(context).view(n, -1, 2, self.heads, d // self.heads)  # (N, U, 2, H, E)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # (N, H, U, E) each
        x = attend(q, k, v).transpose(1, 2).reshape(n, t, d)  # (N, T, D)
        return self.out(x)  # (N, T, D)


class GELU(nn.Module):
    """GELU in its tanh form, as in the paper's implementation.

    In bf16 on a CPU it is the exact form that the tanh form approximates: they differ by less than 5e-4, under half
    of a bf16 step from 0.13 up, and the exact one has a kernel that is four times faster there.
    """

    def forward(self, x: Tensor) -> Tensor:
        exact = x.device.type == "cpu" and x.dtype == torch.bfloat16
        return F.gelu(x, approximate="none" if exact else "tanh")


class Mlp(nn.Sequential):
    """The transformer's pointwise feed-forward layer."""

    def __init__(self, width: int, ratio: float):
        hidden = round(width * ratio)
        super().__init__(nn.Linear(width, hidden), GELU(), nn.Linear(hidden, width))


class TimestepEmbedder(nn.Module):
    """Sinusoidal features of the timestep, then an MLP: (N,) -> (N, D)."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    @staticmethod
    def features(t: Tensor) -> Tensor:
        """(N,) -> (N, 256) in fp32: cosines then sines of geometric frequencies, 1 down to 1e-4."""
        half = FREQUENCIES // 2
        omega = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
        angle = t[:, None].float() * omega  # (N, 128)
        return torch.cat([angle.cos(), angle.sin()], dim=1)  # (N, 256)

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(self.features(t).to(self.mlp[0].weight.dtype))  # (N, D)


class LabelEmbedder(nn.Embedding):
    """A table of classes; its last row is the null class of classifier-free guidance: (N,) -> (N, D)."""

    def __init__(self, classes: int, width: int):
        super().__init__(classes + 1, width)
