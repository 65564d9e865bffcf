"""The words of this room: what a model is, and what it says of a noised image.

Shape letters, here and in the rooms inside: N images, C channels, S side, K channels out of a model, T steps of a
discrete process, L noise levels. A noised image is z = a x0 + b noise; its log-SNR is ln(a^2 / b^2).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# A backbone, guided or not: (z (N, C, S, S), what it is told of the time (N,), label (N,)) -> (N, K, S, S)
Model = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """What a model says of z, whatever it puts out; all (N, C, S, S), and a x0 + b noise is z."""

    x0: Tensor
    noise: Tensor
    fraction: Tensor | None = None  # where the learned covariance lies between its bounds (IDDPM equation 15)


@dataclass(frozen=True)
class Loss:
    """Per image, (N,): `mse` of what is predicted; `vb`, a term of the bound, None where no covariance is learned."""

    mse: Tensor
    vb: Tensor | None = None

    @property
    def total(self) -> Tensor:
        return self.mse if self.vb is None else self.mse + self.vb
