"""Ancestral sampling (DDPM, arXiv 2006.11239, Algorithm 2), with the learned covariance of IDDPM where there is one."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from harness.diffusion.base import Model
from harness.diffusion.objectives.base import Objective
from harness.diffusion.process import at, log_variance, posterior_mean
from harness.diffusion.samplers.base import Sampler


def ddpm(
    objective: Objective, model: Model, x: Tensor, y: Tensor, steps: int, bounded: bool, fresh: Callable[[], Tensor]
) -> Iterator[Tensor]:
    """As `base.Walk`; of pixels it clips the predicted image. A covariance that was not learned is the posterior's."""
    short = objective.respaced(steps)
    p = short.process
    for step in reversed(range(steps)):
        index = torch.full((len(x),), step, device=x.device)  # (N,)
        found = short.predict(model, x, index, y)
        mean = posterior_mean(p, found.x0.clamp(-1, 1) if bounded else found.x0, x, index)
        if found.fraction is None:
            log = at(p.posterior_log_variance, index)  # (N, 1, 1, 1)
        else:
            log = log_variance(p, found.fraction, index)  # (N, C, S, S)
        x = mean + (log / 2).exp() * fresh() if step else mean
        yield x


SAMPLER = Sampler(ddpm, "discrete")
