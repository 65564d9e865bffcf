"""What the samplers share."""

import torch
from torch import Tensor

from harness.diffusion.base import Model
from harness.diffusion.process import Process


def predict(p: Process, model: Model, x: Tensor, y: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index (N,), predicted noise and covariance fraction (N, C, S, S) at one step for the whole batch."""
    index = torch.full((len(x),), step, device=x.device)
    output = model(x, p.timestep[index], y).float()
    return index, output[:, : x.shape[1]], output[:, x.shape[1] :]
