"""What passes between this project and others: a network's weights, and all that is needed to use them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.config import Diffusion, Model, make
from harness.errors import ConfigError
from harness.diffusion.objectives.registry import kind
from harness.models.registry import build


@dataclass(frozen=True, eq=False)
class Network:
    """A network at rest. Raises ConfigError if its weights are not those of its model."""

    model: Model
    channels: int
    side: int  # pixels, or latent cells
    classes: int
    weights: dict[str, Tensor]  # what `harness.models.build(...)` calls its state, fp32
    diffusion: Diffusion = field(default_factory=Diffusion)
    bounded: bool = False  # are its images pixels in [-1, 1]? Latents are not
    class_names: tuple[str, ...] = ()  # empty where they are only numbers
    coder: Path | None = None  # of latents: the folder of their autoencoder, where it is known

    def __post_init__(self):
        with torch.device("meta"):
            needed = {name: tuple(w.shape) for name, w in self._build().state_dict().items()}
        found = {name: tuple(w.shape) for name, w in self.weights.items()}
        for name in needed | found:
            if needed.get(name) != found.get(name):
                raise ConfigError(f"weights: {name} is {_said(found.get(name))}; allowed: {_said(needed.get(name))}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, S) of one image."""
        return self.channels, self.side, self.side

    def net(self) -> nn.Module:
        """The network itself, on the CPU, to call or to train on."""
        net = self._build()
        net.load_state_dict(self.weights)
        return net.eval()

    def require(self, program: str, **allowed: Any) -> None:
        """Raises ConfigError if a field of the model has another value than the one that a program knows."""
        for name, only in allowed.items():
            value = getattr(self.model, name)
            if value != only:
                raise ConfigError(f"model.{name}: {value!r} is unknown to {program}; allowed: {only!r}")

    def _build(self) -> nn.Module:
        outputs = kind(self.diffusion.objective).outputs(self.channels)
        return build(self.model, self.channels, self.side, self.classes, outputs, seed=None)


def model_of(channels: int, out: int, **fields: Any) -> Model:
    """The adaLN-Zero DiT of `channels` in and `out` channels out; `fields` are those of `Model`.

    Raises ConfigError, one line, for a value that cannot be.
    """
    if out not in (channels, 2 * channels):
        raise ConfigError(f"channels out: {out}; allowed: {channels}, or {2 * channels} with learned covariance")
    settings = {f"model.{name}": value for name, value in fields.items()} | {"model.learn_sigma": out != channels}
    return make(settings | {"evaluate.sampler": "ddim"}).model  # which any model has; only the model is asked for


def _said(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))
