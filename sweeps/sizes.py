"""The paper's main experiment: four sizes x patch 8, 4, 2, twelve models (Figures 6 to 9 and 13, Table 4).

Expect FID to fall steadily with Gflops: at a fixed patch with size, at a fixed size with smaller patches.
"""

from harness.config import SCALES, Trial, base, grid


def trials(scale: str) -> list[Trial]:
    """Twelve cells at every scale but smoke."""
    chosen = SCALES[scale]
    return grid(base(scale), {"model.size": chosen.ladder, "model.patch": chosen.patches})
