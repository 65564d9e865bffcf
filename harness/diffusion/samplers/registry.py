"""Samplers by name."""

import torch
from torch import Tensor

from harness.diffusion.base import Model, Random
from harness.diffusion.process import Process
from harness.diffusion.samplers.ddim import ddim
from harness.diffusion.samplers.ddpm import ddpm
from harness.diffusion.samplers.dpm_solver import dpm_solver

# name -> sampler(process, model, x, y, bounded, rng), yielding x after each step; another one is one line here
SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpm++": dpm_solver}


@torch.inference_mode()
def sample(
    p: Process,
    model: Model,
    y: Tensor,
    shape: tuple[int, int, int],
    sampler: str = "ddpm",
    steps: int = 250,
    bounded: bool = True,
    rng: Random = None,
) -> Tensor:
    """Images (N, C, S, S) of classes y (N,) from fresh noise; `shape` is (C, S, S), `sampler` a name in SAMPLERS."""
    x = torch.randn((len(y), *shape), generator=rng, device=y.device)
    for last in SAMPLERS[sampler](p.respaced(steps), model, x, y, bounded, rng):
        x = last
    return x
