"""Heun's second-order method along the probability flow (EDM, arXiv 2206.00364, Algorithm 1): two calls a step."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from torch import Tensor

from harness.diffusion.base import Model
from harness.diffusion.objectives.base import Objective
from harness.diffusion.samplers.base import Sampler
from harness.diffusion.samplers.ode import slope


def heun(
    objective: Objective, model: Model, x: Tensor, y: Tensor, steps: int, bounded: bool, fresh: Callable[[], Tensor]
) -> Iterator[Tensor]:
    """As `base.Walk`; nothing is clipped on the way. The last step, onto the image itself, is Euler's."""
    x = objective.start(x)
    for t, after in pairwise(objective.times(steps)):
        step, first = (after - t).to(x), slope(objective, model, x, t, y)
        there = x + step * first
        x = x + step * (first + slope(objective, model, there, after, y)) / 2 if after else there
        yield x


SAMPLER = Sampler(heun, "continuous", lambda steps: 2 * steps - 1)
