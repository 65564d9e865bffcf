"""DPM-Solver++ (Lu et al., arXiv 2211.01095), by diffusers' scheduler: the sampler `dpm++` of `harness.diffusion`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from harness.diffusion.base import Model, Random
    from harness.diffusion.process import Process


def dpm_solver(p: "Process", model: "Model", x: Tensor, y: Tensor, bounded: bool, rng: "Random") -> Iterator[Tensor]:
    """Deterministic sampling by the second-order multistep solver (Algorithm 2), yielding x after each step.

    Arguments as for `diffusion.ddpm`; `rng` is not used. A step calls the model once, as DDIM's does, and takes its
    slope from the call before. The first step has none, and over the wide span of log noise before the last level it
    leads astray: both are of first order, as the authors do in few steps. The last call's image ends it.
    """
    from diffusers import DPMSolverMultistepScheduler  # takes seconds, which only its own trials should wait

    solver = DPMSolverMultistepScheduler(
        p.steps, algorithm_type="dpmsolver++", solver_order=2, prediction_type="sample",
        final_sigmas_type="sigma_min", euler_at_final=True,
    )  # fmt: skip
    # Not through betas: respaced ones of the cosine schedule come too near to 1 for fp32.
    solver.alphas_cumprod = p.abar.cpu()
    solver.set_timesteps(timesteps=list(range(p.steps - 1, 0, -1)), device=x.device)
    solver.set_begin_index(0)
    for step in reversed(range(p.steps)):
        noise = model(x, p.timestep[step].expand(len(x)), y).float()[:, : x.shape[1]]  # (N, C, S, S)
        x0 = (x - (1 - p.abar[step]).sqrt() * noise) / p.abar[step].sqrt()
        if bounded:
            x0 = x0.clamp(-1, 1)
        x = solver.step(x0, step, x).prev_sample if step else x0
        yield x
