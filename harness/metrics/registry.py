"""Measuring a trained model: the door of this room.

An evaluator yields (metric, value) under the names of `record.METRICS`. Another one is a file here, a line of
`EVALUATORS`, and its names there.
"""

from collections.abc import Callable, Iterator

from torch import Tensor

from harness.metrics.base import Samples, Subject
from harness.metrics.diffusion_loss import diffusion_loss
from harness.metrics.fidelity import fidelity
from harness.metrics.reference import Bench
from harness.metrics.sheet import sheet
from harness.metrics.val_loss import val_loss

EVALUATORS: dict[str, Callable[[Subject, Bench, Samples], Iterator[tuple[str, float]]]] = {
    "val_loss": val_loss,
    "diffusion_loss": diffusion_loss,
    "fidelity": fidelity,
}


def evaluate(subject: Subject, bench: Bench) -> tuple[dict[str, float], Tensor]:
    """All metrics of a model, and its sheet of samples, uint8 (rows*S, 8*S, 3): a row for each of its first classes."""
    samples = Samples(subject)
    metrics = {name: value for run in EVALUATORS.values() for name, value in run(subject, bench, samples)}
    return metrics, sheet(samples.first, subject.dataset.classes)
