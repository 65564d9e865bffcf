"""Training loss."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.diffusion.process import Process, at, log_variance, posterior_mean, predict_x0


@dataclass(frozen=True)
class Loss:
    """Per image, (N,): `mse` of the noise; `vb`, the variational bound in bits a value, or None without covariance."""

    mse: Tensor
    vb: Tensor | None

    @property
    def total(self) -> Tensor:
        return self.mse if self.vb is None else self.mse + self.vb


def training_loss(p: Process, output: Tensor, x0: Tensor, x: Tensor, index: Tensor, noise: Tensor) -> Loss:
    """IDDPM's hybrid loss (equations 16 and 4-7), as the paper trains with.

    output (N, C or 2C, S, S) is the model's at x = add_noise(x0, index, noise). With 2C channels the second half learns
    the covariance from the bound alone: the mean in it has its gradient stopped. The bound's one random term stands
    for the sum over T of them, at IDDPM's weight of 0.001, which at T = 1000 comes to one.
    """
    predicted, fraction = output[:, : x0.shape[1]], output[:, x0.shape[1] :]
    mse = (predicted - noise).square().flatten(1).mean(1)  # (N,)
    if not fraction.numel():
        return Loss(mse, None)
    return Loss(mse, bound_term(p, predicted.detach(), fraction, x0, x, index) * (p.steps / 1000))


def bound_term(p: Process, predicted: Tensor, fraction: Tensor, x0: Tensor, x: Tensor, index: Tensor) -> Tensor:
    """One term of the variational bound, bits a value, (N,): a KL, or at the first step a discretised likelihood."""
    true_mean, true_log = posterior_mean(p, x0, x, index), at(p.posterior_log_variance, index)
    mean = posterior_mean(p, predict_x0(p, x, index, predicted), x, index)
    log = log_variance(p, fraction, index)
    kl = 0.5 * (log - true_log - 1 + (true_log - log).exp() + (true_mean - mean).square() * (-log).exp())
    first = (index == 0)[:, None, None, None]
    nats = torch.where(first, -_discretised_log_likelihood(x0, mean, log / 2), kl)
    return nats.flatten(1).mean(1) / math.log(2)


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log of a Gaussian's mass in the 2/255-wide bin around x in [-1, 1], open at both ends (DDPM section 3.3)."""
    inverse = (-log_scale).exp()

    def cdf(edge: Tensor) -> Tensor:
        return 0.5 * (1 + torch.erf((x - mean + edge) * inverse * 0.5**0.5))

    edge = torch.full((), 1 / 255, device=x.device, dtype=x.dtype)
    upper = torch.where(x > 0.999, torch.ones_like(x), cdf(edge))
    lower = torch.where(x < -0.999, torch.zeros_like(x), cdf(-edge))
    return (upper - lower).clamp(min=1e-12).log()
