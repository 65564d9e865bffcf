"""Gaussian diffusion as functions of tensors: noise schedule, training loss, samplers, guidance.

Follows DDPM (Ho et al., arXiv 2006.11239) with the learned covariance of Nichol & Dhariwal (arXiv 2102.09672, "IDDPM"),
as the paper does. Shape letters: N images, C channels, S side; a model maps (x (N, C, S, S), t (N,), y (N,)) to the
noise (N, C, S, S), followed along the channels by the covariance fraction when it learns one.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.dpm_solver import dpm_solver

Model = Callable[[Tensor, Tensor, Tensor], Tensor]
Random = torch.Generator | None


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


# Training loss


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


# Sampling


def guided(model: Model, null: int, scale: float, channels: int = 0) -> Model:
    """Classifier-free guidance (paper section 3.1), both halves in one batch; `scale` 1 is the model itself.

    channels > 0 guides only that many of the noise channels, as the paper's samples do with 3 of 4.
    """
    if scale == 1:
        return model

    def call(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with_class, without = model(
            torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, torch.full_like(y, null)])
        ).chunk(2)  # (N, K, S, S) each
        n = channels or x.shape[1]
        out = with_class.clone()
        out[:, :n] = without[:, :n] + scale * (with_class[:, :n] - without[:, :n])
        return out

    return call


def ddpm(p: Process, model: Model, x: Tensor, y: Tensor, bounded: bool, rng: Random) -> Iterator[Tensor]:
    """Ancestral sampling with the learned covariance (IDDPM section 3.1), yielding x after each step.

    x (N, C, S, S) is the starting noise; `bounded` clips the predicted image to [-1, 1], for pixels.
    """
    for step in reversed(range(p.steps)):
        index, noise, fraction = _predict(p, model, x, y, step)
        x0 = predict_x0(p, x, index, noise)
        mean = posterior_mean(p, x0.clamp(-1, 1) if bounded else x0, x, index)
        fresh = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
        x = mean + (0.5 * log_variance(p, fraction, index)).exp() * fresh if step else mean
        yield x


def ddim(p: Process, model: Model, x: Tensor, y: Tensor, bounded: bool, rng: Random) -> Iterator[Tensor]:
    """Deterministic sampling (DDIM, arXiv 2010.02502, equation 12 with eta 0), yielding x after each step.

    Arguments as for `ddpm`; `rng` is not used. A clipped image implies its own noise, which the step then uses.
    """
    for step in reversed(range(p.steps)):
        index, noise, _ = _predict(p, model, x, y, step)
        x0 = predict_x0(p, x, index, noise)
        if bounded:
            x0 = x0.clamp(-1, 1)
            noise = (x - p.abar[step].sqrt() * x0) / (1 - p.abar[step]).sqrt()
        x = p.abar_before[step].sqrt() * x0 + (1 - p.abar_before[step]).sqrt() * noise
        yield x


# name -> sampler(process, model, x, y, bounded, rng), yielding x after each step; another one is one line here
SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpm++": dpm_solver}


def _predict(p: Process, model: Model, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index (N,), predicted noise and covariance fraction (N, C, S, S) at one step for the whole batch."""
    index = torch.full((len(x),), step, device=x.device)
    output = model(x, p.timestep[index], y).float()
    return index, output[:, : x.shape[1]], output[:, x.shape[1] :]


@torch.inference_mode()
def sample(
    p: Process,
    model: Model,
    y: Tensor,
    shape: tuple[int, int, int],
    sampler: str = "ddpm",
    steps: int = 250,
    bounded: bool = True,
    rng: Random = None,
) -> Tensor:
    """Images (N, C, S, S) of classes y (N,) from fresh noise; `shape` is (C, S, S), `sampler` a name in SAMPLERS."""
    x = torch.randn((len(y), *shape), generator=rng, device=y.device)
    for last in SAMPLERS[sampler](p.respaced(steps), model, x, y, bounded, rng):
        x = last
    return x
