"""The training loop: a generator that yields one `Step` after each update. It knows no logger, Ray or evaluation.

Every random number is a function of (seed, images seen): a resumed run is the same run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from harness.config import Trial
from harness.data import registry as datasets
from harness.data.base import Images
from harness.diffusion.objectives import registry as objectives
from harness.diffusion.objectives.base import Objective
from harness.streams import generator
from harness.training.state import State


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


def draw(
    data: Images, trial: Trial, objective: Objective, images: int, null: int, device: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The batch after `images` seen: x0 (N, C, S, S), y (N,), times (N,), noise (N, C, S, S)."""
    n, seed = trial.train.batch, trial.seed
    rng = generator(device, "batch", seed, images)
    chosen = batch_indices(seed, images, n, len(data.labels))
    if data.images.is_cuda:
        chosen = chosen.pin_memory().to(data.images.device, non_blocking=True)  # or the host would wait for the copy
    mirrored = torch.rand(n, generator=rng, device=device) < 0.5 if datasets.flips(trial.data) else None
    x0 = data.examples(chosen, mirrored, device, rng)
    y = data.labels[chosen].to(device, non_blocking=True)
    dropped = torch.rand(n, generator=rng, device=device) < trial.train.label_dropout
    y = torch.where(dropped, null, y)
    t = objective.draw(n, rng)
    return x0, y, t, torch.randn(x0.shape, generator=rng, device=device)


def steps(state: State, trial: Trial, data: Images, null: int, compiled: bool = False) -> Iterator[Step]:
    """Train from `state.images` to the end of the run, yielding after each update.

    `data` may lie on any device; `null` is the label that means no class. `compiled` fuses the step with
    torch.compile: same mathematics, other rounding.
    """
    device = str(state.master.device)
    objective = objectives.objective(trial.diffusion, device)
    loss_of = objective.loss
    if compiled:
        torch._dynamo.reset()  # a warm worker may have compiled another trial's model
        loss_of = torch.compile(objective.loss, dynamic=False)
    while state.step < trial.train.steps:
        x0, y, t, noise = draw(data, trial, objective, state.images, null, device)
        loss = loss_of(state.net, x0, y, t, noise)
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
