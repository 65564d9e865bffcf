"""The training loop: a generator that yields one `Step` after each update. It knows no logger, Ray or evaluation.

Master weights, moments and EMA are flat fp32 vectors; the model computes on views of one flat vector of its own
precision, so optimiser, EMA and cast are each one pass over memory. Every random number is a function of (seed,
images seen): a resumed run is the same run.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from harness import diffusion
from harness.config import Trial
from harness.data import Images


class Diverged(RuntimeError):
    """Training met NaN or infinity: the message says at which step and where."""


@dataclass(frozen=True)
class Step:
    """What one update did. The losses are tensors on the training device, so that reading them is the caller's wait."""

    step: int  # updates so far
    images: int  # images seen so far
    loss: Tensor  # ()
    mse: Tensor  # ()
    vb: Tensor | None  # ()


class State:
    """A model in training. `net` computes in `dtype`; `master`, `ema` and the moments are (P,) fp32."""

    def __init__(self, net: nn.Module, trial: Trial, device: str, dtype: torch.dtype):
        self.net, self.train, self.images = net.to(device), trial.train, 0
        parameters = list(net.parameters())
        self.master = torch.cat([p.detach().flatten() for p in parameters]).float()
        self.ema = self.master.clone()
        self.weights = self.master.to(dtype, copy=True)
        self.gradient = torch.zeros_like(self.weights)
        for buffer in net.buffers():
            buffer.data = buffer.data.to(dtype)
        for p, w, g in zip(parameters, self._views(self.weights), self._views(self.gradient), strict=True):
            p.data, p.grad = w, g
        self.master.grad = torch.empty_like(self.master)
        config = trial.train
        self.optimiser = torch.optim.AdamW(
            [self.master], lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay,
            fused=True,
        )  # fmt: skip

    def _views(self, flat: Tensor) -> list[Tensor]:
        shapes = [p.shape for p in self.net.parameters()]
        return [part.view(shape) for part, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]

    def update(self) -> None:
        """One AdamW update from the gradient the backward pass left, then EMA and the cast to the model's weights."""
        self.master.grad.copy_(self.gradient)
        self.optimiser.step()
        self.images += self.train.batch
        self.ema.lerp_(self.master, 1 - ema_decay(self.train.ema_std, self.train.ema_decay, self.step))
        self.weights.copy_(self.master)
        self.gradient.zero_()

    @property
    def step(self) -> int:
        return self.images // self.train.batch

    def ema_weights(self) -> dict[str, Tensor]:
        """The EMA by parameter name, fp32 views of `ema`."""
        return dict(zip((name for name, _ in self.net.named_parameters()), self._views(self.ema), strict=True))

    def state_dict(self) -> dict:
        return {"images": self.images, "master": self.master, "ema": self.ema, "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, saved: dict) -> None:
        self.images = saved["images"]
        self.master.copy_(saved["master"])
        self.ema.copy_(saved["ema"])
        self.weights.copy_(saved["master"])
        self.optimiser.load_state_dict(saved["optimiser"])


def ema_decay(std: float, constant: float, step: int) -> float:
    """Decay of the EMA at an update: `constant` if it is not 0, else the power function of EDM2 (equations 2 and 3).

    The power function's window grows with the run, to a width of `std` of it, so that short runs and early
    evaluations are not dragged down by their initial weights.
    """
    if constant:
        return constant
    return (1 - 1 / step) ** (_gamma(std) + 1)


@lru_cache
def _gamma(std: float) -> float:
    """EDM2's exponent for a width: solves std^2 (gamma+2)^2 (gamma+3) = gamma+1 by bisection."""
    low, high = 0.0, 1e4
    for _ in range(80):
        gamma = (low + high) / 2
        wider = std**2 * (gamma + 2) ** 2 * (gamma + 3) < gamma + 1
        low, high = (gamma, high) if wider else (low, gamma)
    return gamma


def generator(device: str, *keys: int | str) -> torch.Generator:
    """A random stream of its own for each tuple of keys."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)


def batch_indices(seed: int, images: int, batch: int, count: int) -> Tensor:
    """Which training images come after `images` seen, (N,): each epoch is a permutation of all `count` of its own."""
    out, at = [], images
    while at < images + batch:
        epoch, start = divmod(at, count)
        out.append(_order(seed, epoch, count)[start : start + images + batch - at])
        at += len(out[-1])
    return torch.cat(out)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=generator("cpu", "epoch", seed, epoch))


def objective(
    p: diffusion.Process, net: nn.Module, x0: Tensor, y: Tensor, index: Tensor, noise: Tensor
) -> diffusion.Loss:
    """The loss of each image, in fp32 whatever the model computes in: x0 and noise (N, C, S, S), y and index (N,)."""
    x = diffusion.add_noise(p, x0, index, noise)
    output = net(x, p.timestep[index], y).float()
    return diffusion.training_loss(p, output, x0, x, index, noise)


def draw(data: Images, trial: Trial, images: int, timesteps: int, null: int, device: str) -> tuple[Tensor, ...]:
    """The batch after `images` seen: x0 (N, C, S, S), y (N,), index (N,), noise (N, C, S, S)."""
    n, seed = trial.train.batch, trial.seed
    rng = generator(device, "batch", seed, images)
    chosen = batch_indices(seed, images, n, len(data.labels))
    if data.images.is_cuda:
        chosen = chosen.pin_memory().to(data.images.device, non_blocking=True)  # or the host would wait for the copy
    mirrored = torch.rand(n, generator=rng, device=device) < 0.5 if trial.data.flip else None
    x0 = data.examples(chosen, mirrored, device, rng)
    y = data.labels[chosen].to(device, non_blocking=True)
    dropped = torch.rand(n, generator=rng, device=device) < trial.train.label_dropout
    y = torch.where(dropped, null, y)
    index = torch.randint(timesteps, (n,), generator=rng, device=device)
    return x0, y, index, torch.randn(x0.shape, generator=rng, device=device)


def steps(state: State, trial: Trial, data: Images, null: int, compiled: bool = False) -> Iterator[Step]:
    """Train from `state.images` to the end of the run, yielding after each update.

    `data` may lie on any device; `null` is the label that means no class. `compiled` fuses the step with
    torch.compile: same mathematics, other rounding.
    """
    device = str(state.master.device)
    p = diffusion.process(trial.diffusion.schedule, trial.diffusion.timesteps).to(device)
    loss_of = objective
    if compiled:
        torch._dynamo.reset()  # a warm worker may have compiled another trial's model
        loss_of = torch.compile(objective, dynamic=False)
    while state.step < trial.train.steps:
        x0, y, index, noise = draw(data, trial, state.images, p.steps, null, device)
        loss = loss_of(p, state.net, x0, y, index, noise)
        total = loss.total.mean()
        total.backward()
        state.update()
        yield Step(state.step, state.images, total.detach(), loss.mse.detach().mean(), _mean(loss.vb))


def _mean(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().mean()


def check_finite(losses: Tensor, last: int) -> None:
    """losses (n,) of the steps up to `last`. Raises Diverged naming the first that is NaN or infinite."""
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        at = int(bad[0])
        raise Diverged(f"loss became {losses[at].item()} at step {last - len(losses) + at + 1}")
