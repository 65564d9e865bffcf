"""Four ways to tell the model the timestep and the class, at one size (Figure 5; XL/2 in the paper).

Expect adaLN-Zero to reach the lowest FID, and cross-attention to cost about 15 % more Gflops.
"""

from harness.config import Trial, base, grid


def trials(scale: str) -> list[Trial]:
    """Four cells; at the paper's scale XL/2, elsewhere the middle of the ladder at patch 4."""
    start = base(scale, size="XL", patch=2) if scale == "paper" else base(scale)
    return grid(start, {"model.conditioning": ["in-context", "cross-attention", "adaLN", "adaLN-Zero"]})
