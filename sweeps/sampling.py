"""Sampling steps: can more sampling compute make up for less model compute (Figure 10)?

Measures the models of `sizes` again, from their weights, and trains nothing that it finds trained. Expect each model's
FID to level off (at the `cpu` scale it is lowest at 8 or 16 steps and slowly rises), and small models seldom to reach
large ones whatever their steps. Costs about 20 minutes on two CPU cores.
"""

from harness.config import SCALES, Trial, base, grid

STEPS = {
    "smoke": (2, 5),
    "cpu": (4, 8, 16, 32, 64),
    "gpu": (16, 32, 64, 128, 256),
    "paper": (16, 32, 64, 128, 256, 1000),
}  # fmt: skip
SAMPLES = {"cpu": 500, "paper": 10_000}  # as in the paper's figure; elsewhere the scale's own


def trials(scale: str) -> list[Trial]:
    """The twelve models of `sizes` at each number of steps."""
    chosen = SCALES[scale]
    start = base(scale) | {"evaluate.points": 1}
    start |= {"evaluate.samples": SAMPLES.get(scale, start["evaluate.samples"])}
    axes = {"model.size": chosen.ladder, "model.patch": chosen.patches, "evaluate.steps": STEPS[scale]}
    return grid(start, axes)
