"""Deterministic sampling (DDIM, arXiv 2010.02502)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from harness.diffusion.base import Model
from harness.diffusion.objectives.base import Objective
from harness.diffusion.samplers.base import Sampler


def ddim(
    objective: Objective, model: Model, x: Tensor, y: Tensor, steps: int, bounded: bool, fresh: Callable[[], Tensor]
) -> Iterator[Tensor]:
    """As `base.Walk`: equation 12 with eta 0. A clipped image implies its own noise, which the step then uses."""
    short = objective.respaced(steps)
    p = short.process
    for step in reversed(range(steps)):
        found = short.predict(model, x, torch.full((len(x),), step, device=x.device), y)
        x0, noise = found.x0, found.noise
        if bounded:
            x0 = x0.clamp(-1, 1)
            noise = (x - p.signal[step] * x0) / p.noise[step]
        x = p.signal_before[step] * x0 + p.noise_before[step] * noise
        yield x


SAMPLER = Sampler(ddim, "discrete")
