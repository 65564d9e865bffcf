"""Predict the velocity on the discrete schedule (Salimans & Ho, arXiv 2202.00512, appendix D)."""

from torch import Tensor

from harness.diffusion.base import Prediction
from harness.diffusion.objectives.discrete import Discrete


class Velocity(Discrete):
    """`v`: the network puts out v = a noise - b x0, where a^2 + b^2 = 1."""

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        a, b = self.path(t)
        return a * noise - b * x0

    def read(self, output: Tensor, z: Tensor, t: Tensor) -> Prediction:
        a, b = self.path(t)
        return Prediction(a * z - b * output, b * z + a * output)
