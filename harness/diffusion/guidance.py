"""Classifier-free guidance: knows of a model that it takes an image, a time and a label, and nothing else.

It is affine in the model's output, and at one z and time so is every conversion between noise, velocity and image: to
guide one of them is to guide them all.
"""

import torch
from torch import Tensor

from harness.diffusion.base import Model


def guided(model: Model, null: int, scale: float, channels: int = 0) -> Model:
    """Classifier-free guidance (paper section 3.1), both halves in one batch; `scale` 1 is the model itself.

    channels > 0 guides only that many of the image's channels, as the paper's samples do with 3 of 4; a learned
    covariance is never guided.
    """
    if scale == 1:
        return model

    def call(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with_class, without = model(
            torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, torch.full_like(y, null)])
        ).chunk(2)  # (N, K, S, S) each
        n = channels or x.shape[1]
        out = with_class.clone()
        out[:, :n] = without[:, :n] + scale * (with_class[:, :n] - without[:, :n])
        return out

    return call
