"""Samplers by name: the door of this room. Another one is a file here and a line of `SAMPLERS`."""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.config import Evaluate, Trial
from harness.diffusion.base import Model
from harness.diffusion.objectives import registry as objectives
from harness.diffusion.objectives.base import Objective
from harness.diffusion.samplers import ddim, ddpm, dpm_solver, euler, heun
from harness.diffusion.samplers.base import Sampler
from harness.errors import ConfigError
from harness.naming import choose

SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm.SAMPLER,
    "ddim": ddim.SAMPLER,
    "dpm++": dpm_solver.SAMPLER,
    "euler": euler.SAMPLER,
    "heun": heun.SAMPLER,
}


def check(trial: Trial) -> None:
    """Raises ConfigError for an unknown sampler, or one that does not fit the trial's objective."""
    name, objective = trial.evaluate.sampler, trial.diffusion.objective
    chosen, family = choose("evaluate.sampler", name, SAMPLERS), objectives.kind(objective).family
    if chosen.family != family:
        fit = ", ".join(each for each, sampler in SAMPLERS.items() if sampler.family == family)
        raise ConfigError(f"evaluate.sampler: '{name}' does not fit objective '{objective}'; allowed with it: {fit}")


def calls(settings: Evaluate) -> int:
    """Forward passes of the model that one sample takes; guidance asks twice each time."""
    return SAMPLERS[settings.sampler].calls(settings.steps) * (1 if settings.guidance == 1 else 2)


@torch.inference_mode()
def sample(
    objective: Objective, model: Model, y: Tensor, sampler: str, steps: int, bounded: bool, fresh: Callable[[], Tensor]
) -> Tensor:
    """Images (N, C, S, S) of classes y (N,). `fresh` draws standard normal noise of that shape each time it is called,
    which the first time is where a sampler starts from; `sampler` is a name in SAMPLERS."""
    x = fresh()
    for last in SAMPLERS[sampler].walk(objective, model, x, y, steps, bounded, fresh):
        x = last
    return x
