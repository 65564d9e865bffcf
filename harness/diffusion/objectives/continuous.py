"""Objectives in continuous time: a density of noise levels to train on, a grid of times to sample along."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from harness.config import Trial
from harness.diffusion.objectives.base import Objective, refuse


class Continuous(Objective):
    """Times are real. A level is ln(b / a), half the log-SNR with its sign turned."""

    family = "continuous"
    own: ClassVar[tuple[str, float, float]]  # density, and its mean and width, that its own paper trains with

    @classmethod
    def check(cls, trial: Trial) -> None:
        """Raises ConfigError for a setting of the discrete process, which there is none of."""
        refuse(trial, "discrete", ("schedule", "timesteps"))

    @abstractmethod
    def time(self, level: Tensor) -> Tensor:
        """The time of each level, of the same shape."""

    @abstractmethod
    def times(self, steps: int) -> Tensor:
        """The times (steps + 1,) that a sampler stops at, from pure noise to the image, in fp64."""

    @abstractmethod
    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """da/dt and db/dt at times (N,): (N, 1, 1, 1) each."""

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """`uniform` in the place on the line from image to noise; `logit-normal` (SD3, arXiv 2403.03206, equation 19)
        in that place, which is normal in the level."""
        own, given = self.settings.density == "own", self.settings
        density, mean, std = self.own if own else (given.density, given.density_mean, given.density_std)
        if density == "uniform":
            level = torch.rand(count, generator=rng, device=self.device).logit(eps=1e-6)  # (N,)
        else:
            level = mean + std * torch.randn(count, generator=rng, device=self.device)  # (N,)
        return self.time(level)

    def nearest(self, log_snr: Tensor) -> Tensor:
        return self.time(-log_snr.to(self.device) / 2).float()

    def start(self, noise: Tensor) -> Tensor:
        """z (N, C, S, S) at the first time of a sampler, of standard normal noise."""
        return self.path(self.times(1)[:1].to(noise))[1] * noise
