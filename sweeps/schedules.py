"""Three noise schedules at one size: linear as in the paper, Stable Diffusion's scaled linear, and IDDPM's cosine.

FID compares them; losses do not, since each schedule asks about other noise levels. Costs about five minutes on two CPU
cores where `sizes` has been run.
"""

from harness.config import Trial, base, grid


def trials(scale: str) -> list[Trial]:
    """Three cells, in the middle of the ladder at patch 4."""
    return grid(base(scale), {"diffusion.schedule": ["linear", "scaled_linear", "cosine"]})
