"""Made-up networks and data whose answers are known, and every objective's output written out again in fp64."""

import torch
from torch import Tensor

from harness.config import Diffusion
from harness.diffusion.objectives.registry import objective
from harness.diffusion.process import SCHEDULES

# The objectives that are written out again here. Another one has tests of its own, and needs no line in these.
DISCRETE, CONTINUOUS = ("ddpm", "noise", "v"), ("flow", "edm")
WRITTEN = (*DISCRETE, *CONTINUOUS)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(n=6, seed=0, steps=1000):
    """x0, index (the first step and the last among them), noise."""
    x0 = noise(n, 2, 4, 4, seed=seed).clamp(-1, 1)
    return x0, torch.linspace(0, steps - 1, n).long(), noise(n, 2, 4, 4, seed=seed + 1)


def stream(like, seed=0):
    """`fresh` of a sampler: further noise like x at each call."""
    rng = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape, generator=rng)


def made(name, **fields):
    return objective(Diffusion(objective=name, **fields))


def times(name, count=9):
    """Times of an objective, (count,) evenly from log-SNR 8 to -8, where discrete ones take their nearest."""
    return made(name).nearest(torch.linspace(8, -8, count, dtype=torch.float64))


def oracle(x, t, y):
    """A network of 2C outputs that depends on all it is given."""
    when = t[:, None, None, None] / 1000 + y[:, None, None, None]
    return torch.cat([torch.tanh(x + when.sin()), torch.sin(3 * x + when)], dim=1)


def for_objective(name, model=oracle):
    """The same with as many outputs as the objective asks for."""
    return model if name == "ddpm" else lambda x, t, y: model(x, t, y)[:, : x.shape[1]]


def levels(name, t: Tensor, schedule="linear") -> tuple[Tensor, Tensor]:
    """a and b of z = a x0 + b noise at times (N,), in fp64, from the papers."""
    t = t.double()[:, None, None, None]
    if name == "flow":
        return 1 - t, t
    if name == "edm":
        return torch.ones_like(t), t
    abar = torch.cumprod(1 - SCHEDULES[schedule](1000), 0)[t.long()]
    return abar.sqrt(), (1 - abar).sqrt()


def output(name, x0: Tensor, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """What a network of an objective puts out, in fp64, that takes z = a x0 + b noise for a noised x0.

    Written with x0 and z alone, so that it holds where there is no image left in z (a = 0).
    """
    x0, z = x0.double(), z.double()
    if name in ("ddpm", "noise"):
        return (z - a * x0) / b
    if name == "v":  # a noise - b x0, where a^2 + b^2 = 1
        return (a * z - x0) / b
    if name == "flow":  # noise - x0, where a + b = 1
        return (z - x0) / b
    skip, out = 0.25 / (b**2 + 0.25), b * 0.5 / (b**2 + 0.25).sqrt()  # EDM, Table 1
    return (x0 - skip * z) / out


def network(name, believe, schedule="linear", fraction=lambda x, t: torch.zeros_like(x)):
    """A network of an objective that takes `believe(z, a, b, y)` for the image in z (N, C, S, S), all in fp64.

    It is told of the time as the papers say, and finds it back from that. `fraction(x, t)` is its covariance.
    """

    def model(x, t, y):
        own = {"flow": t.double() / 1000, "edm": (4 * t.double() / 1000).exp()}.get(name, t)
        a, b = levels(name, own, schedule)
        z = x.double() * (b**2 + 0.25).sqrt() if name == "edm" else x.double()
        found = output(name, believe(z, a, b, y), z, a, b)
        return torch.cat([found, fraction(x, t)], dim=1) if name == "ddpm" else found

    return model


def gaussian(mean, std):
    """What the best model of data whose values are all N(mean, std) believes."""
    return lambda z, a, b, y: mean + std**2 * a / (std**2 * a**2 + b**2) * (z - a * mean)
