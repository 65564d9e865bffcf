"""The held-out loss of a discrete objective: its noise-prediction error, averaged over its own timesteps."""

from collections.abc import Iterator

import torch

from harness.metrics.base import Samples, Subject
from harness.metrics.held_out import errors
from harness.metrics.reference import Bench


def val_loss(subject: Subject, bench: Bench, samples: Samples) -> Iterator[tuple[str, float]]:
    """Noise MSE on held-out images, with fixed noise and timesteps on an even grid over the images.

    Absent for objectives in continuous time, which have no timesteps to average over.
    """
    if subject.objective.family != "discrete":
        return
    count = min(subject.trial.evaluate.val_images, len(bench.held_out))
    steps = subject.trial.diffusion.timesteps
    t = ((torch.arange(count, device=subject.device) + 0.5) * steps / count).long()  # (N,)
    noise, _ = errors(subject, bench, t)
    yield "val_loss", float(noise.double().mean())
