"""The same cells from four seeds: how much of a difference between two models is chance?

The spread over seeds is the error band of every other figure. Costs about eight minutes on two CPU cores where `sizes`
has been run, which holds the first seed.
"""

from harness.config import SCALES, Trial, base, grid


def trials(scale: str) -> list[Trial]:
    """The smallest size at the two largest patches, and the middle one at the largest."""
    ladder, patches = SCALES[scale].ladder, SCALES[scale].patches
    cells = ((ladder[0], patches[0]), (ladder[0], patches[1]), (ladder[len(ladder) // 2], patches[0]))
    return [trial for cell in cells for trial in grid(base(scale, *cell), {"seed": range(4)})]
