"""Learning rate by size: is a scaling curve a curve of models, or of one learning rate that suits some of them?

If the best rate moves with width, one rate for all flatters the sizes it suits. The paper used 1e-4 for every model and
found no need to tune it. At the `cpu` scale its own rate and half of it suit every size within seed noise, and twice
the rate makes the wide ones diverge: a result too. Costs about ten minutes on two CPU cores where `sizes` has been run.
"""

from harness.config import SCALES, Trial, base, grid


def trials(scale: str) -> list[Trial]:
    """Every size of the ladder at the largest patch, at a quarter of the scale's own rate to twice it."""
    chosen = SCALES[scale]
    rate = chosen.fields.get("train.lr", 1e-4)
    start = base(scale, patch=chosen.patches[0])
    return grid(start, {"model.size": chosen.ladder, "train.lr": [rate / 4, rate / 2, rate, 2 * rate]})
