"""The discrete diffusion process: noise schedules, and the tables that losses and samplers read.

Follows DDPM (Ho et al., arXiv 2006.11239) and Nichol & Dhariwal (arXiv 2102.09672, "IDDPM"), as the paper does. Shape
letters: N images, C channels, S side, T steps of the process.
"""

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
    """A forward process of T steps. Every table is (T,), computed in fp64; all but `abar` are stored in fp32.

    `timestep` holds the training timestep of each step, so that a respaced process still asks the model about times
    it was trained on (IDDPM section 4).
    """

    timestep: Tensor  # training timestep of each step
    abar: Tensor  # product of 1 - beta up to and including the step, fp64: 1 - abar loses its digits in fp32
    signal: Tensor  # abar^(1/2), what is left of the image
    noise: Tensor  # (1 - abar)^(1/2), how much noise there is
    signal_before: Tensor  # the same one step earlier; 1 before the first
    noise_before: Tensor  # 0 before the first
    log_beta: Tensor
    posterior_log_variance: Tensor  # of q(x_before | x, x0); the first, which is 0, takes the second's value
    posterior_x0: Tensor  # coefficient of x0 in the mean of q(x_before | x, x0), DDPM equation 7
    posterior_x: Tensor  # coefficient of x

    @property
    def steps(self) -> int:
        return len(self.abar)

    @property
    def log_snr(self) -> Tensor:
        """ln(abar / (1 - abar)) of each step, (T,) fp64."""
        return self.abar.logit()

    def to(self, device: torch.device | str) -> "Process":
        return Process(**{name: value.to(device) for name, value in vars(self).items()})

    def respaced(self, steps: int) -> "Process":
        """The process that visits `steps` evenly spaced timesteps of this one, first and last included."""
        kept = torch.linspace(0, self.steps - 1, steps, dtype=torch.float64).round().long()
        if steps == 1:
            kept = torch.tensor([self.steps - 1])
        return _process(self.abar.cpu()[kept], self.timestep.cpu()[kept]).to(self.abar.device)


def process(schedule: str = "linear", steps: int = 1000) -> Process:
    """The training process. `schedule` is a name in `SCHEDULES`."""
    beta = SCHEDULES[schedule](steps).clamp(max=0.999)  # fewer than 20 linear steps would leave (0, 1)
    abar = torch.cumprod(1 - beta, dim=0)
    return _process(abar, torch.arange(steps))


def _process(abar: Tensor, timestep: Tensor) -> Process:
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    beta = 1 - abar / before
    variance = beta * (1 - before) / (1 - abar)
    tables = {
        "signal": abar.sqrt(),
        "noise": (1 - abar).sqrt(),
        "signal_before": before.sqrt(),
        "noise_before": (1 - before).sqrt(),
        "log_beta": beta.log(),
        "posterior_log_variance": torch.cat([variance[1:2] if len(abar) > 1 else beta, variance[1:]]).log(),
        "posterior_x0": beta * before.sqrt() / (1 - abar),
        "posterior_x": (1 - before) * (1 - beta).sqrt() / (1 - abar),
    }
    return Process(timestep=timestep, abar=abar, **{name: table.float() for name, table in tables.items()})


def at(values: Tensor, index: Tensor) -> Tensor:
    """values (T,), index (N,) -> (N, 1, 1, 1)."""
    return values[index][:, None, None, None]


def add_noise(p: Process, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """q(x | x0), DDPM equation 4: (N, C, S, S)."""
    return at(p.signal, index) * x0 + at(p.noise, index) * noise


def predict_x0(p: Process, x: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """The image that x is a noised version of: (N, C, S, S)."""
    return (x - at(p.noise, index) * noise) / at(p.signal, index)


def posterior_mean(p: Process, x0: Tensor, x: Tensor, index: Tensor) -> Tensor:
    """Mean of q(x_before | x, x0), DDPM equation 7: (N, C, S, S)."""
    return at(p.posterior_x0, index) * x0 + at(p.posterior_x, index) * x


def log_variance(p: Process, fraction: Tensor, index: Tensor) -> Tensor:
    """IDDPM equation 15: between the posterior's variance (fraction -1) and beta (fraction 1), in log."""
    low, high = at(p.posterior_log_variance, index), at(p.log_beta, index)
    mix = (fraction + 1) / 2
    return mix * high + (1 - mix) * low
