"""What to predict, and along which path: five objectives at three sizes (SiT, arXiv 2401.08740, Table 1; SD3, Table 2).

Noise with and without a learned covariance, velocity on the same schedule, velocity on the straight line (`flow`, with
uniform times as in SiT and with the logit-normal ones of SD3) and EDM's preconditioned denoiser; each is sampled by a
deterministic sampler that fits it, with as many calls of the model, but for EDM's, whose long way from sigma 80 takes
at least the 18 steps of its paper. Expect SiT's order at equal Gflops: linear velocity ahead of noise prediction, and
logit-normal times ahead of uniform ones. The smallest size is run from three seeds with `ddpm` and `flow`, for the
noise that the comparison is judged by.
"""

from harness.config import SCALES, Trial, base, grid, unique

SAMPLER, STEPS = "evaluate.sampler", "evaluate.steps"
EDM_STEPS = 18  # of Heun's method, 35 calls: what its paper takes for images of this side


def objectives(steps: int) -> tuple[dict, ...]:
    """The settings of each; `steps` is how often a sample calls the model."""
    flow = {"diffusion.objective": "flow", SAMPLER: "euler"}
    return (
        {"diffusion.objective": "ddpm"},
        {"diffusion.objective": "noise"},
        {"diffusion.objective": "v"},
        flow,
        flow | {"diffusion.density": "logit-normal"},
        {"diffusion.objective": "edm", SAMPLER: "heun", STEPS: max(EDM_STEPS, (steps + 1) // 2)},  # two calls a step
    )


def trials(scale: str) -> list[Trial]:
    """The smallest, a middle and the largest size; at the middle patch, at the paper's scale at the finest."""
    ladder = SCALES[scale].ladder
    sizes = dict.fromkeys((ladder[0], ladder[len(ladder) // 2], ladder[-1]))
    start = base(scale, patch=2 if scale == "paper" else 4)
    kinds = objectives(start[STEPS])
    cells = [trial for kind in kinds for trial in grid(start | kind, {"model.size": sizes})]
    repeated = [
        trial
        for kind in (kinds[0], kinds[3])
        for trial in grid(start | kind, {"model.size": ladder[:1], "seed": range(3)})
    ]
    return unique(cells + repeated)
