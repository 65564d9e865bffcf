"""What passes between this project and others: a network's weights, and all that is needed to use them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.config import Diffusion, Model, make
from harness.diffusion.objectives.registry import kind
from harness.errors import ConfigError
from harness.models.registry import build


@dataclass(frozen=True, eq=False)
class Network:
    """A network at rest. Raises ConfigError if its weights are not those of its model and objective."""

    model: Model
    channels: int
    side: int  # pixels, or latent cells
    classes: int
    weights: dict[str, Tensor]  # what `harness.models.build(...)` calls its state, fp32
    diffusion: Diffusion = field(default_factory=Diffusion)  # what it puts out, and at which noise levels
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

    def require(self, program: str, allowed: Mapping[str, Iterable[Any]]) -> None:
        """Raises ConfigError if a setting, such as `model.backbone`, has another value than a program knows."""
        for name, known in allowed.items():
            part, leaf = name.split(".")
            value = getattr(getattr(self, part), leaf)
            if value not in known:
                raise ConfigError(f"{name}: {value!r} is unknown to {program}; allowed: {', '.join(map(repr, known))}")

    def _build(self) -> nn.Module:
        outputs = kind(self.diffusion.objective).outputs(self.channels)
        return build(self.model, self.channels, self.side, self.classes, outputs, seed=None)


def model_of(**fields: Any) -> Model:
    """The adaLN-Zero DiT with these fields of `Model`. Raises ConfigError, one line, for a value that cannot be."""
    return make({f"model.{name}": value for name, value in fields.items()}).model


def objective_of(known: Iterable[str], channels: int, out: int) -> str:
    """Which of these objectives has `out` channels put out for `channels`. Raises ConfigError if none has."""
    fit = {kind(name).outputs(channels): name for name in known}
    if out not in fit:
        allowed = ", ".join(f"{count} (objective {name})" for count, name in fit.items())
        raise ConfigError(f"channels out: {out}; allowed: {allowed}")
    return fit[out]


def _said(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))
