"""Objectives on the T steps of a discrete process (DDPM, arXiv 2006.11239): a time is a step's index."""

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from harness.config import Diffusion, Trial
from harness.diffusion import process
from harness.diffusion.base import Loss, Model
from harness.diffusion.objectives.base import Objective, mean_square, refuse
from harness.diffusion.process import SCHEDULES, Process, at
from harness.errors import ConfigError
from harness.naming import choose


class Discrete(Objective):
    """Uniform over the steps of `process`; what the network puts out, `target` says."""

    family = "discrete"

    def __init__(self, settings: Diffusion, device: torch.device | str = "cpu", given: Process | None = None):
        super().__init__(settings, device)
        self.process = (given or process.process(settings.schedule, settings.timesteps)).to(device)

    @classmethod
    def check(cls, trial: Trial) -> None:
        """Raises ConfigError for an unknown schedule, more sampling steps than timesteps, or a density of times."""
        choose("diffusion.schedule", trial.diffusion.schedule, SCHEDULES)
        refuse(trial, "continuous", ("density", "density_mean", "density_std"))
        if trial.evaluate.steps > trial.diffusion.timesteps:
            raise ConfigError(
                f"evaluate.steps: {trial.evaluate.steps} exceeds diffusion.timesteps={trial.diffusion.timesteps}; "
                "allowed: at most as many"
            )

    @abstractmethod
    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network learns to put out, (N, C, S, S)."""

    def respaced(self, steps: int) -> Self:
        """The same over fewer, evenly spaced steps: for samplers."""
        return type(self)(self.settings, self.device, self.process.respaced(steps))

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.randint(self.process.steps, (count,), generator=rng, device=self.device)

    def path(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return at(self.process.signal, t), at(self.process.noise, t)

    def nearest(self, log_snr: Tensor) -> Tensor:
        return (self.process.log_snr - log_snr[:, None].to(self.device)).abs().argmin(1)  # (L, T) -> (L,)

    def ask(self, model: Model, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return model(z, self.process.timestep[t], y).float()

    def loss(self, model: nn.Module, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor) -> Loss:
        output = self.ask(model, self.noised(x0, t, noise), t, y)
        return Loss(mean_square(output - self.target(x0, t, noise)))
