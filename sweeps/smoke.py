"""Does every part work? Two tiny models, seconds each, through training, FID, MLflow and the report.

Costs under two minutes on two CPU cores. Its numbers mean nothing: the models have hardly begun to learn.
"""

from harness.config import SCALES, Trial, base, grid


def trials(scale: str) -> list[Trial]:
    """Always at the smoke scale, whatever the machine."""
    smoke = SCALES["smoke"]
    return grid(base("smoke"), {"model.size": smoke.ladder, "model.patch": smoke.patches})
