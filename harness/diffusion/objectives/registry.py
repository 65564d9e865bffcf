"""Objectives by name: the door of this room. Another one is a file here and a line of `OBJECTIVES`."""

import torch

from harness.config import Diffusion, Trial
from harness.diffusion.objectives.base import FAMILIES, Objective
from harness.diffusion.objectives.ddpm import Ddpm
from harness.diffusion.objectives.edm import Edm
from harness.diffusion.objectives.flow import Flow
from harness.diffusion.objectives.noise import Noise
from harness.diffusion.objectives.v import Velocity
from harness.errors import ConfigError
from harness.naming import find

OBJECTIVES: dict[str, type[Objective]] = {"ddpm": Ddpm, "noise": Noise, "v": Velocity, "flow": Flow, "edm": Edm}
WANTED = f"{Objective.__module__}.{Objective.__name__}"


def kind(name: str) -> type[Objective]:
    """Raises ConfigError for an unknown objective, or outside code that is none."""
    found = find("diffusion.objective", name, OBJECTIVES)
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise ConfigError(
            f"diffusion.objective: '{name}' is of {type(found).__name__}; allowed: a subclass of {WANTED}"
        )
    if missing := sorted(found.__abstractmethods__):
        raise ConfigError(f"diffusion.objective: '{name}' lacks {', '.join(missing)}; allowed: all of {WANTED}")
    if getattr(found, "family", None) not in FAMILIES:
        raise ConfigError(f"diffusion.objective: '{name}' says no family; allowed: {', '.join(FAMILIES)}")
    return found


def objective(settings: Diffusion, device: torch.device | str = "cpu") -> Objective:
    """The objective that settings name, with its tables on a device. Raises ConfigError for an unknown one."""
    return kind(settings.objective)(settings, device)


def check(trial: Trial) -> None:
    """Raises ConfigError for an unknown objective, or settings that it cannot have."""
    kind(trial.diffusion.objective).check(trial)
