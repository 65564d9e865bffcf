"""Ancestral sampling."""

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.diffusion.base import Model, Random
from harness.diffusion.process import Process, log_variance, posterior_mean, predict_x0
from harness.diffusion.samplers.base import predict


def ddpm(p: Process, model: Model, x: Tensor, y: Tensor, bounded: bool, rng: Random) -> Iterator[Tensor]:
    """Ancestral sampling with the learned covariance (IDDPM section 3.1), yielding x after each step.

    x (N, C, S, S) is the starting noise; `bounded` clips the predicted image to [-1, 1], for pixels.
    """
    for step in reversed(range(p.steps)):
        index, noise, fraction = predict(p, model, x, y, step)
        x0 = predict_x0(p, x, index, noise)
        mean = posterior_mean(p, x0.clamp(-1, 1) if bounded else x0, x, index)
        fresh = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
        x = mean + (0.5 * log_variance(p, fraction, index)).exp() * fresh if step else mean
        yield x
