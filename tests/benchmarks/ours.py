"""This project's side of the comparisons."""

from collections.abc import Callable

import torch
from torch import nn

from harness import hardware
from harness.config import Trial, base, make
from harness.cost import cost, interface
from harness.data import registry as datasets
from harness.data.base import Images
from harness.models.registry import build
from harness.training.loop import Step, steps
from harness.training.state import State


def trial(size: str, patch: int, **fields: object) -> Trial:
    """A trial of the cpu scale; other fields by name, dots written as `__`."""
    return make(base("cpu", size, patch) | {name.replace("__", "."): value for name, value in fields.items()})


def arithmetic(of: Trial) -> torch.dtype:
    return hardware.arithmetic(of.train.precision, "cpu")


def model(of: Trial, seed: int | None = 0) -> nn.Module:
    return build(of.model, *interface(of), seed)


def training(of: Trial, images: Images) -> Callable[[], Step]:
    """A call is the next update, as a sweep would make it on this machine."""
    state = State(model(of), of, "cpu", arithmetic(of))
    compiled = hardware.compile_pays(cost(of).train_gflops(of.train.images), "cpu")
    updates = steps(state, of, images, datasets.lookup(of.data.dataset).classes, compiled)
    return lambda: next(updates)


def trained(of: Trial, images: Images) -> dict[str, torch.Tensor]:
    """EMA weights after the whole of a trial's training."""
    state = State(model(of), of, "cpu", arithmetic(of))
    for _ in steps(state, of, images, datasets.lookup(of.data.dataset).classes):
        pass
    return state.ema_weights()
