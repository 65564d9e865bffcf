"""What a sampler is: from noise to images in so many steps, by what a model predicts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from harness.diffusion.base import Model


class Walk(Protocol):
    """From noise x (N, C, S, S) of classes y (N,) to images, yielding x after each step.

    `bounded` data are pixels in [-1, 1]. `fresh` draws further standard normal noise like x, for those that need some.
    """

    def __call__(
        self, objective: Any, model: Model, x: Tensor, y: Tensor, steps: int, bounded: bool, fresh: Callable[[], Tensor]
    ) -> Iterator[Tensor]: ...


@dataclass(frozen=True)
class Sampler:
    """A walk, the family of objectives that it fits, and how often it calls the model in so many steps."""

    walk: Walk
    family: str
    calls: Callable[[int], int] = lambda steps: steps
