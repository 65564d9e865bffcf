"""A model in training: its weights, their moments and their average, and one update of them all.

Master weights, moments and EMA are flat fp32 vectors; the model computes on views of one flat vector of its own
precision, so optimiser, EMA and cast are each one pass over memory.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from harness.config import Trial


class State:
    """A model in training. `net` computes in `dtype`; `master`, `ema` and the moments are (P,) fp32."""

    def __init__(self, net: nn.Module, trial: Trial, device: str, dtype: torch.dtype):
        self.net, self.train, self.images = net.to(device), trial.train, 0
        parameters = list(net.parameters())
        self.master = torch.cat([p.detach().flatten() for p in parameters]).float()
        self.ema = self.master.clone()
        self.weights = self.master.to(dtype, copy=True)
        self.gradient = torch.zeros_like(self.weights)
        for buffer in (each for each in net.buffers() if each.is_floating_point()):
            buffer.data = buffer.data.to(dtype)
        for p, w, g in zip(parameters, self._views(self.weights), self._views(self.gradient), strict=True):
            p.data, p.grad = w, g
        self.master.grad = torch.empty_like(self.master)
        config = trial.train
        self.optimiser = torch.optim.AdamW(
            [self.master], lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay,
            fused=True,
        )  # fmt: skip

    def _views(self, flat: Tensor) -> list[Tensor]:
        shapes = [p.shape for p in self.net.parameters()]
        return [part.view(shape) for part, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]

    def update(self) -> None:
        """One AdamW update from the gradient the backward pass left, then EMA and the cast to the model's weights."""
        self.master.grad.copy_(self.gradient)
        self.optimiser.step()
        self.images += self.train.batch
        self.ema.lerp_(self.master, 1 - ema_decay(self.train.ema_std, self.train.ema_decay, self.step))
        self.weights.copy_(self.master)
        self.gradient.zero_()

    @property
    def step(self) -> int:
        return self.images // self.train.batch

    def ema_weights(self) -> dict[str, Tensor]:
        """The EMA by parameter name, fp32 views of `ema`."""
        return dict(zip((name for name, _ in self.net.named_parameters()), self._views(self.ema), strict=True))

    def state_dict(self) -> dict:
        return {"images": self.images, "master": self.master, "ema": self.ema, "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, saved: dict) -> None:
        self.images = saved["images"]
        self.master.copy_(saved["master"])
        self.ema.copy_(saved["ema"])
        self.weights.copy_(saved["master"])
        self.optimiser.load_state_dict(saved["optimiser"])


def ema_decay(std: float, constant: float, step: int) -> float:
    """Decay of the EMA at an update: `constant` if it is not 0, else the power function of EDM2 (equations 2 and 3).

    The power function's window grows with the run, to a width of `std` of it, so that short runs and early
    evaluations are not dragged down by their initial weights.
    """
    if constant:
        return constant
    return (1 - 1 / step) ** (_gamma(std) + 1)


@lru_cache
def _gamma(std: float) -> float:
    """EDM2's exponent for a width: solves std^2 (gamma+2)^2 (gamma+3) = gamma+1 by bisection."""
    low, high = 0.0, 1e4
    for _ in range(80):
        gamma = (low + high) / 2
        wider = std**2 * (gamma + 2) ** 2 * (gamma + 3) < gamma + 1
        low, high = (gamma, high) if wider else (low, gamma)
    return gamma
