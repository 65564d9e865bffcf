"""DPM-Solver++ (Lu et al., arXiv 2211.01095), by diffusers' scheduler."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from harness.diffusion.base import Model
from harness.diffusion.objectives.base import Objective
from harness.diffusion.samplers.base import Sampler


def dpm_solver(
    objective: Objective, model: Model, x: Tensor, y: Tensor, steps: int, bounded: bool, fresh: Callable[[], Tensor]
) -> Iterator[Tensor]:
    """As `base.Walk`: deterministic, by the second-order multistep solver (Algorithm 2).

    A step calls the model once, as DDIM's does, and takes its slope from the call before. The first step has none, and
    over the wide span of log noise before the last level it leads astray: both are of first order, as the authors do in
    few steps. The last call's image ends it.
    """
    from diffusers import DPMSolverMultistepScheduler  # takes seconds, which only its own trials should wait

    short = objective.respaced(steps)
    solver = DPMSolverMultistepScheduler(
        steps, algorithm_type="dpmsolver++", solver_order=2, prediction_type="sample",
        final_sigmas_type="sigma_min", euler_at_final=True,
    )  # fmt: skip
    # Not through betas: respaced ones of the cosine schedule come too near to 1 for fp32.
    solver.alphas_cumprod = short.process.abar.cpu()
    solver.set_timesteps(timesteps=list(range(steps - 1, 0, -1)), device=x.device)
    solver.set_begin_index(0)
    for step in reversed(range(steps)):
        x0 = short.predict(model, x, torch.full((len(x),), step, device=x.device), y).x0  # (N, C, S, S)
        if bounded:
            x0 = x0.clamp(-1, 1)
        x = solver.step(x0, step, x).prev_sample if step else x0
        yield x


SAMPLER = Sampler(dpm_solver, "discrete")
