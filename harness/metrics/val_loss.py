"""The held-out loss."""

from collections.abc import Iterator

import torch

from harness.data.base import normalise
from harness.diffusion.process import add_noise
from harness.metrics.base import BATCH, Samples, Subject
from harness.metrics.reference import Bench
from harness.streams import generator


@torch.inference_mode()
def val_loss(subject: Subject, bench: Bench, samples: Samples) -> Iterator[tuple[str, float]]:
    """Noise MSE on held-out images, with fixed noise and timesteps on an even grid over the images."""
    count, device, p = min(subject.trial.evaluate.val_images, len(bench.held_out)), subject.device, subject.process
    index = ((torch.arange(count, device=device) + 0.5) * p.steps / count).long()  # (N,)
    rng = generator(device, "held-out")
    total = torch.zeros((), device=device, dtype=torch.float64)
    for part in torch.arange(count, device=device).split(BATCH[device]):
        x0 = normalise(bench.held_out.images[part.cpu()].to(device))  # (N, C, S, S)
        noise = torch.randn(x0.shape, generator=rng, device=device)
        x = add_noise(p, x0, index[part], noise)
        labels = bench.held_out.labels[part.cpu()].to(device)
        output = subject.net(x, p.timestep[index[part]], labels).float()[:, : x0.shape[1]]
        total += (output - noise).square().flatten(1).mean(1).sum()
    yield "val_loss", float(total / count)
