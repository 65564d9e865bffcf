"""The preconditioned denoiser of Karras et al., arXiv 2206.00364 ("EDM"); equations are that paper's."""

import torch
from torch import Tensor, nn

from harness.diffusion.base import Loss, Model, Prediction
from harness.diffusion.objectives.base import mean_square
from harness.diffusion.objectives.continuous import Continuous

DATA = 0.5  # sigma_data, the standard deviation that images are taken to have
LEAST, MOST, RHO = 0.002, 80.0, 7.0  # of sigma in sampling, and how its steps shorten towards the image (Table 1)
TOLD = 1000  # its c_noise is ln(sigma) / 4; a backbone's timestep features are made for a range of a thousand


class Edm(Continuous):
    """`edm`: z = x0 + sigma noise, and the time is sigma; D(z) = c_skip z + c_out F(c_in z), F being the network."""

    own = ("logit-normal", -1.2, 1.2)  # normal in ln sigma (Table 1)

    def time(self, level: Tensor) -> Tensor:
        return level.exp()

    def times(self, steps: int) -> Tensor:
        """Equation 5, with the image itself after the last."""
        place = torch.linspace(0, 1, steps, dtype=torch.float64)
        sigma = (MOST ** (1 / RHO) + place * (LEAST ** (1 / RHO) - MOST ** (1 / RHO))) ** RHO
        return torch.cat([sigma, torch.zeros(1, dtype=torch.float64)])

    def path(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = t[:, None, None, None]
        return torch.ones_like(sigma), sigma

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(t)[:, None, None, None]
        return torch.zeros_like(one), one

    def ask(self, model: Model, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return model(z * self._norm(t), TOLD * t.log() / 4, y).float()

    def read(self, output: Tensor, z: Tensor, t: Tensor) -> Prediction:
        sigma, norm = t[:, None, None, None], self._norm(t)
        image = (DATA * norm) ** 2 * z + sigma * DATA * norm * output  # equation 7
        return Prediction(image, (z - image) / sigma)

    def loss(self, model: nn.Module, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor) -> Loss:
        """Equation 8: at this weight every level counts alike, by how far F is off."""
        z, sigma = self.noised(x0, t, noise), t[:, None, None, None]
        image = self.read(self.ask(model, z, t, y), z, t).x0
        weight = (sigma**2 + DATA**2) / (sigma * DATA) ** 2  # (N, 1, 1, 1)
        return Loss(mean_square(weight.sqrt() * (image - x0)))

    @staticmethod
    def _norm(t: Tensor) -> Tensor:
        """c_in: one over the standard deviation of z, (N, 1, 1, 1)."""
        return (t**2 + DATA**2).rsqrt()[:, None, None, None]
