"""Predict the noise and the covariance (Nichol & Dhariwal, arXiv 2102.09672, "IDDPM"): what the paper trains with."""

import math

import torch
from torch import Tensor, nn

from harness.diffusion.base import Loss, Prediction
from harness.diffusion.objectives.base import mean_square
from harness.diffusion.objectives.noise import Noise
from harness.diffusion.process import Process, at, log_variance, posterior_mean, predict_x0


class Ddpm(Noise):
    """`ddpm`: the noise, followed along the channels by where the covariance lies between its bounds."""

    @staticmethod
    def outputs(channels: int) -> int:
        return 2 * channels

    def read(self, output: Tensor, z: Tensor, t: Tensor) -> Prediction:
        noise, fraction = output.chunk(2, dim=1)  # (N, C, S, S) each
        return Prediction(predict_x0(self.process, z, t, noise), noise, fraction)

    def loss(self, model: nn.Module, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor) -> Loss:
        """IDDPM's hybrid loss (equations 16 and 4-7): the covariance learns from the bound alone.

        One random term of the bound stands for the sum over T of them, at weight 1 as in the paper's code; IDDPM's is
        T / 1000, which is the same at the paper's T.
        """
        z = self.noised(x0, t, noise)
        predicted, fraction = self.ask(model, z, t, y).chunk(2, dim=1)  # (N, C, S, S) each
        vb = bound_term(self.process, predicted.detach(), fraction, x0, z, t)
        return Loss(mean_square(predicted - noise), vb)


def bound_term(p: Process, predicted: Tensor, fraction: Tensor, x0: Tensor, x: Tensor, index: Tensor) -> Tensor:
    """One term of the variational bound, in bits a value, (N,): a KL, or at the first step a discretised likelihood."""
    true_mean, true_log = posterior_mean(p, x0, x, index), at(p.posterior_log_variance, index)
    mean = posterior_mean(p, predict_x0(p, x, index, predicted), x, index)
    log = log_variance(p, fraction, index)
    kl = 0.5 * (log - true_log - 1 + (true_log - log).exp() + (true_mean - mean).square() * (-log).exp())
    first = (index == 0)[:, None, None, None]
    nats = torch.where(first, -discretised_log_likelihood(x0, mean, log / 2), kl)
    return nats.flatten(1).mean(1) / math.log(2)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log of a Gaussian's mass in the 2/255-wide bin around x in [-1, 1], open at both ends (DDPM section 3.3)."""
    inverse = (-log_scale).exp()

    def cdf(edge: Tensor) -> Tensor:
        return 0.5 * (1 + torch.erf((x - mean + edge) * inverse * 0.5**0.5))

    edge = torch.full((), 1 / 255, device=x.device, dtype=x.dtype)
    upper = torch.where(x > 0.999, torch.ones_like(x), cdf(edge))
    lower = torch.where(x < -0.999, torch.zeros_like(x), cdf(-edge))
    return (upper - lower).clamp(min=1e-12).log()
