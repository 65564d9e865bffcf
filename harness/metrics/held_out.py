"""What a model gets wrong on held-out images, at given times: the measure of low noise that needs no samples."""

import torch
from torch import Tensor

from harness.data.base import normalise
from harness.metrics.base import BATCH, Subject
from harness.metrics.reference import Bench
from harness.streams import Noise


@torch.inference_mode()
def errors(subject: Subject, bench: Bench, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square error of the noise and of the image, (N,) each: held-out image i at time t[i], all with one noise.

    Image i has the same noise whatever the model, its objective or the batch: differences between models are theirs.
    """
    found = []
    for part in torch.arange(len(t)).split(BATCH[subject.device]):
        x0 = normalise(bench.held_out.images[part].to(subject.device))  # (N, C, S, S)
        y = bench.held_out.labels[part].to(subject.device)
        noise = Noise(x0.shape[1:], int(part[0]), len(part), subject.device, "held-out")()  # (N, C, S, S)
        z = subject.objective.noised(x0, t[part], noise)
        guess = subject.objective.predict(subject.net, z, t[part], y)
        found.append(
            [(mine - true).square().flatten(1).mean(1) for mine, true in ((guess.noise, noise), (guess.x0, x0))]
        )
    return tuple(torch.cat(part).cpu() for part in zip(*found, strict=True))
