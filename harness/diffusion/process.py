"""The discrete diffusion process."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def _linear(steps: int) -> Tensor:
    """DDPM's schedule, 1e-4 to 2e-2 at 1000 steps; other lengths keep the same noise in total."""
    return torch.linspace(1e-4, 2e-2, steps, dtype=torch.float64) * (1000 / steps)


def _scaled_linear(steps: int) -> Tensor:
    """Stable Diffusion's schedule: linear in the square root, 0.00085 to 0.012 at 1000 steps."""
    return torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2 * (1000 / steps)


def _cosine(steps: int) -> Tensor:
    """IDDPM equation 17: abar follows a squared cosine; betas are capped at 0.999."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    abar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - abar[1:] / abar[:-1]).clamp(max=0.999)


SCHEDULES = {"linear": _linear, "scaled_linear": _scaled_linear, "cosine": _cosine}


@dataclass(frozen=True)
class Process:
    """A forward process of T steps; every array is (T,) fp32, computed in fp64.

    `timestep` holds the training timestep of each step, so that a respaced process still asks the model about times
    it was trained on (IDDPM section 4).
    """

    timestep: Tensor  # training timestep of each step
    beta: Tensor
    abar: Tensor  # product of 1 - beta up to and including the step
    abar_before: Tensor  # the same one step earlier; 1 before the first
    posterior_log_variance: Tensor  # of q(x_before | x, x0); the first, which is 0, takes the second's value
    posterior_x0: Tensor  # coefficient of x0 in the mean of q(x_before | x, x0), DDPM equation 7
    posterior_x: Tensor  # coefficient of x

    @property
    def steps(self) -> int:
        return len(self.beta)

    def to(self, device: torch.device | str) -> "Process":
        return Process(**{name: value.to(device) for name, value in vars(self).items()})

    def respaced(self, steps: int) -> "Process":
        """The process that visits `steps` evenly spaced timesteps of this one, first and last included."""
        kept = torch.linspace(0, self.steps - 1, steps, dtype=torch.float64).round().long()
        if steps == 1:
            kept = torch.tensor([self.steps - 1])
        return _process(self.abar.double()[kept.to(self.abar.device)].cpu(), kept).to(self.abar.device)


def process(schedule: str = "linear", steps: int = 1000) -> Process:
    """The training process. `schedule` is a name in `SCHEDULES`."""
    beta = SCHEDULES[schedule](steps).clamp(max=0.999)  # fewer than 20 linear steps would leave (0, 1)
    abar = torch.cumprod(1 - beta, dim=0)
    return _process(abar, torch.arange(steps))


def _process(abar: Tensor, timestep: Tensor) -> Process:
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    beta = 1 - abar / before
    variance = beta * (1 - before) / (1 - abar)
    return Process(
        timestep=timestep,
        beta=beta.float(),
        abar=abar.float(),
        abar_before=before.float(),
        posterior_log_variance=torch.cat([variance[1:2] if len(abar) > 1 else beta, variance[1:]]).log().float(),
        posterior_x0=(beta * before.sqrt() / (1 - abar)).float(),
        posterior_x=((1 - before) * (1 - beta).sqrt() / (1 - abar)).float(),
    )


def at(values: Tensor, index: Tensor) -> Tensor:
    """values (T,), index (N,) -> (N, 1, 1, 1)."""
    return values[index][:, None, None, None]


def add_noise(p: Process, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """q(x | x0), DDPM equation 4: (N, C, S, S)."""
    return at(p.abar.sqrt(), index) * x0 + at((1 - p.abar).sqrt(), index) * noise


def predict_x0(p: Process, x: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """The image that x is a noised version of: (N, C, S, S)."""
    return (x - at((1 - p.abar).sqrt(), index) * noise) / at(p.abar.sqrt(), index)


def posterior_mean(p: Process, x0: Tensor, x: Tensor, index: Tensor) -> Tensor:
    """Mean of q(x_before | x, x0), DDPM equation 7: (N, C, S, S)."""
    return at(p.posterior_x0, index) * x0 + at(p.posterior_x, index) * x


def log_variance(p: Process, fraction: Tensor, index: Tensor) -> Tensor:
    """IDDPM equation 15: between the posterior's variance (fraction -1) and beta (fraction 1), in log."""
    low, high = at(p.posterior_log_variance, index), at(p.beta.log(), index)
    mix = (fraction + 1) / 2
    return mix * high + (1 - mix) * low
