"""Velocity on the line from image to noise: rectified flow (arXiv 2209.03003), as SiT and SD3 train with.

SiT is Ma et al., arXiv 2401.08740; SD3 is Esser et al., arXiv 2403.03206.
"""

import torch
from torch import Tensor, nn

from harness.diffusion.base import Loss, Model, Prediction
from harness.diffusion.objectives.base import mean_square
from harness.diffusion.objectives.continuous import Continuous

TOLD = 1000  # what a backbone is told at t = 1: the range that its timestep features are made for


class Flow(Continuous):
    """`flow`: z = (1 - t) x0 + t noise with t from 0 to 1; the network puts out dz/dt = noise - x0.

    Its own density of t is SiT's.
    """

    own = ("uniform", 0.0, 1.0)

    def time(self, level: Tensor) -> Tensor:
        return level.sigmoid()

    def times(self, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def path(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t[:, None, None, None]
        return 1 - t, t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)[:, None, None, None]
        return -one, one

    def ask(self, model: Model, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return model(z, TOLD * t, y).float()

    def read(self, output: Tensor, z: Tensor, t: Tensor) -> Prediction:
        a, b = self.path(t)
        return Prediction(z - b * output, z + a * output)

    def loss(self, model: nn.Module, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor) -> Loss:
        output = self.ask(model, self.noised(x0, t, noise), t, y)
        return Loss(mean_square(output - (noise - x0)))
