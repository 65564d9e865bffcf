"""What an objective is: a path from image to noise, what the network puts out on it, when it is asked and what counts.

A time t is in the objective's own unit (a step of a process, a place on a line, a standard deviation), for the whole
batch (N,). All of that is here, so that guidance, backbones, the loop and the metrics need not know which it is.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.config import Diffusion, Trial
from harness.diffusion.base import Loss, Model, Prediction
from harness.errors import ConfigError

FAMILIES = ("discrete", "continuous")


class Objective(ABC):
    """One way to train a denoiser. `settings` are a trial's; tables lie on `device`."""

    family: ClassVar[str]  # one of FAMILIES: which samplers fit

    def __init__(self, settings: Diffusion, device: torch.device | str = "cpu"):
        self.settings, self.device = settings, device

    @staticmethod
    def outputs(channels: int) -> int:
        """K, the channels that the network puts out for images of C channels."""
        return channels

    @classmethod
    def check(cls, trial: Trial) -> None:
        """Raises ConfigError for settings of the trial that this objective has no use for, or cannot work with."""
        return None

    @abstractmethod
    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """Times of a training batch, (count,)."""

    @abstractmethod
    def path(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and b of z = a x0 + b noise at times (N,): (N, 1, 1, 1) each."""

    @abstractmethod
    def nearest(self, log_snr: Tensor) -> Tensor:
        """The times (L,) whose log-SNR is nearest to the given ones (L,)."""

    @abstractmethod
    def ask(self, model: Model, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """What the model puts out, (N, K, S, S) in fp32, for z (N, C, S, S) at times t (N,)."""

    @abstractmethod
    def read(self, output: Tensor, z: Tensor, t: Tensor) -> Prediction:
        """What that output says of the image and of the noise."""

    @abstractmethod
    def loss(self, model: nn.Module, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor) -> Loss:
        """Per image, in fp32 whatever the model computes in: x0 and noise (N, C, S, S), y and t (N,)."""

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z (N, C, S, S) at times t."""
        a, b = self.path(t)
        return a * x0 + b * noise

    def predict(self, model: Model, z: Tensor, t: Tensor, y: Tensor) -> Prediction:
        """What a model says of the image and of the noise in z (N, C, S, S) at times t (N,)."""
        return self.read(self.ask(model, z, t, y), z, t)


def mean_square(error: Tensor) -> Tensor:
    """(N, C, S, S) -> (N,)."""
    return error.square().flatten(1).mean(1)


def refuse(trial: Trial, family: str, names: tuple[str, ...]) -> None:
    """Raises ConfigError for the first of these fields of `diffusion`, the other family's, that is not at its default.

    A setting that changes nothing would give the same experiment a second name.
    """
    for name in names:
        value, default = getattr(trial.diffusion, name), Diffusion.model_fields[name].default
        if value != default:
            raise ConfigError(
                f"diffusion.{name}: {value} is of {family} objectives, which '{trial.diffusion.objective}' is not; "
                f"allowed: {default}"
            )
