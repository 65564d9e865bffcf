"""Predict the noise (DDPM, arXiv 2006.11239, equation 14): a fixed covariance."""

from torch import Tensor

from harness.diffusion.base import Prediction
from harness.diffusion.objectives.discrete import Discrete
from harness.diffusion.process import predict_x0


class Noise(Discrete):
    """`noise`: the network puts out the noise."""

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return noise

    def read(self, output: Tensor, z: Tensor, t: Tensor) -> Prediction:
        return Prediction(predict_x0(self.process, z, t, output), output)
