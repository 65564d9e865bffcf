"""DDIM."""

from collections.abc import Iterator

from torch import Tensor

from harness.diffusion.base import Model, Random
from harness.diffusion.process import Process, predict_x0
from harness.diffusion.samplers.base import predict


def ddim(p: Process, model: Model, x: Tensor, y: Tensor, bounded: bool, rng: Random) -> Iterator[Tensor]:
    """Deterministic sampling (DDIM, arXiv 2010.02502, equation 12 with eta 0), yielding x after each step.

    Arguments as for `ddpm`; `rng` is not used. A clipped image implies its own noise, which the step then uses.
    """
    for step in reversed(range(p.steps)):
        index, noise, _ = predict(p, model, x, y, step)
        x0 = predict_x0(p, x, index, noise)
        if bounded:
            x0 = x0.clamp(-1, 1)
            noise = (x - p.abar[step].sqrt() * x0) / (1 - p.abar[step]).sqrt()
        x = p.abar_before[step].sqrt() * x0 + (1 - p.abar_before[step]).sqrt() * noise
        yield x
