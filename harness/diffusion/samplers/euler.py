"""Euler's method along the probability flow: one call of the model a step."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from harness.diffusion.base import Model
from harness.diffusion.objectives.base import Objective
from harness.diffusion.samplers.base import Sampler
from harness.diffusion.samplers.ode import slope


def euler(
    objective: Objective, model: Model, x: Tensor, y: Tensor, steps: int, bounded: bool, fresh: Callable[[], Tensor]
) -> Iterator[Tensor]:
    """As `base.Walk`; nothing is clipped on the way."""
    x = objective.start(x)
    for t, after in pairwise(objective.times(steps)):
        x = x + (after - t).to(x) * slope(objective, model, x, t, y)
        yield x


SAMPLER = Sampler(euler, "continuous")
