"""A held-out loss that compares objectives: by noise level, whatever a model was trained to put out.

At one log-SNR every path gives the same noised image but for its scale, and every output says what the image and the
noise in it are: so all are asked the same thing (Kingma et al., arXiv 2107.00630, section 5).
"""

from collections.abc import Iterator

import torch

from harness.metrics.base import Samples, Subject
from harness.metrics.held_out import errors
from harness.metrics.reference import Bench
from harness.record import LOG_SNR


def diffusion_loss(subject: Subject, bench: Bench, samples: Samples) -> Iterator[tuple[str, float]]:
    """MSE of noise and image at each level of LOG_SNR, and half the integral of the first over log-SNR.

    The levels take turns over the held-out images. A discrete objective is asked at its nearest step. The integral is
    the bound on the likelihood that its noise levels make up, in nats a value (arXiv 2107.00630, equation 15), by
    trapezoids. Absent where there are fewer images than levels.
    """
    count, levels = (
        min(subject.trial.evaluate.val_images, len(bench.held_out)),
        torch.tensor(LOG_SNR, dtype=torch.double),
    )
    if count < len(levels):
        return
    turn = torch.arange(count) % len(levels)  # (N,)
    noise, image = errors(subject, bench, subject.objective.nearest(levels)[turn.to(subject.device)])
    means = {}
    for name, error in (("noise_mse", noise), ("image_mse", image)):
        means[name] = torch.stack([error[turn == level].double().mean() for level in range(len(levels))])  # (L,)
        yield from ((f"{name}/{level}", float(mean)) for level, mean in zip(LOG_SNR, means[name], strict=True))
    yield "diffusion_loss", float(torch.trapezoid(means["noise_mse"], levels) / 2)
