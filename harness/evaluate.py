"""Measuring a trained model: evaluators by name, each yielding (metric, value) under the names of `record.METRICS`.

Samples stream from the model into the feature extractor, once for all metrics, with no image files in between.
Extraction and the metrics of features are torch-fidelity's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset
from torch_fidelity import (
    KEY_METRIC_ISC_MEAN,
    KEY_METRIC_KID_MEAN,
    KEY_METRIC_PRECISION,
    KEY_METRIC_RECALL,
)
from torch_fidelity.metric_isc import isc_featuresdict_to_metric
from torch_fidelity.metric_kid import kid_featuresdict_to_metric
from torch_fidelity.metric_prc import prc_featuresdict_to_metric
from torch_fidelity.utils import extract_featuresdict_from_input_id_cached

from harness import data, diffusion, extractors, frechet
from harness.bench import Bench
from harness.config import Trial
from harness.train import generator

COLUMNS = 8  # samples of each class on a sheet
KID_SUBSETS = 50
BATCH = {"cpu": 128, "cuda": 512}  # images sampled at once


@dataclass
class Subject:
    """A model under measurement: `net` holds the EMA weights in the training arithmetic, on `device`."""

    net: nn.Module
    trial: Trial
    device: str

    @cached_property
    def dataset(self) -> data.Dataset:
        return data.lookup(self.trial.data.dataset)

    @cached_property
    def process(self) -> diffusion.Process:
        return diffusion.process(self.trial.diffusion.schedule, self.trial.diffusion.timesteps).to(self.device)

    def generate(self, start: int, count: int) -> Tensor:
        """Samples start to start+count of an endless sequence as pictures, uint8 (N, C, S, S).

        Sample i is of class i modulo the classes. The noise depends on `start` alone, so every model of a sweep is
        asked for the same pictures.
        """
        labels = torch.arange(start, start + count, device=self.device) % self.dataset.classes
        settings = self.trial.evaluate
        model = diffusion.guided(self.net, self.dataset.classes, settings.guidance, settings.guidance_channels)
        rng = generator(self.device, "samples", start)
        x = diffusion.sample(
            self.process, model, labels, self.dataset.shape, settings.sampler, settings.steps, self.dataset.bounded, rng
        )
        return self.dataset.to_pixels(x)


class Samples(TorchDataset):
    """The generated images of an evaluation as a dataset read in order: each batch is made when it is reached."""

    def __init__(self, subject: Subject):
        self.subject, self.count = subject, subject.trial.evaluate.samples
        self.batch, self.start, self.held = BATCH[subject.device], 0, None
        self.first: Tensor | None = None  # the first batch, kept for the sheet

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        if self.held is None or not self.start <= i < self.start + len(self.held):
            self.start = i - i % self.batch
            self.held = self.subject.generate(self.start, min(self.batch, self.count - self.start)).cpu()
            if self.start == 0:
                self.first = self.held
        return data.to_rgb(self.held[i - self.start])


def fidelity(subject: Subject, bench: Bench, samples: Samples) -> Iterator[tuple[str, float]]:
    """FID, sFID, KID, Inception Score, precision and recall of `evaluate.samples` generated images.

    sFID (Nash et al., arXiv 2103.03841) is the FID of features that still know where in the image they are; it is
    absent where the extractor has no layer `extractors.SPATIAL`.
    """
    settings = bench.settings
    settings |= {
        "input1": samples, "batch_size": samples.batch, "cuda": subject.device == "cuda",
        "kid_subsets": KID_SUBSETS, "kid_subset_size": min(500, len(samples), len(settings["input2"])),
        "isc_splits": 1,  # at a few thousand samples ten splits would each be far too small
        "samples_shuffle": False,
    }  # fmt: skip
    extractor = bench.extractor(subject.device)
    fake = extract_featuresdict_from_input_id_cached(1, extractor, **settings)
    real, gaussians = bench.reference(extractor, subject.device)
    layer = extractor.get_default_feature_layer_for_metric
    yield "fid", frechet.distance(fake[layer("fid")], *gaussians[layer("fid")])
    if extractors.SPATIAL in fake:
        yield "sfid", frechet.distance(fake[extractors.SPATIAL], *gaussians[extractors.SPATIAL])
    yield "kid", kid_featuresdict_to_metric(fake, real, layer("kid"), **settings)[KEY_METRIC_KID_MEAN]
    yield "inception_score", isc_featuresdict_to_metric(fake, layer("isc"), **settings)[KEY_METRIC_ISC_MEAN]
    inside = prc_featuresdict_to_metric(fake, real, layer("prc"), **settings)
    yield "precision", inside[KEY_METRIC_PRECISION]
    yield "recall", inside[KEY_METRIC_RECALL]


@torch.inference_mode()
def val_loss(subject: Subject, bench: Bench, samples: Samples) -> Iterator[tuple[str, float]]:
    """Noise MSE on held-out images, with fixed noise and timesteps on an even grid over the images."""
    count, device, p = min(subject.trial.evaluate.val_images, len(bench.held_out)), subject.device, subject.process
    index = ((torch.arange(count, device=device) + 0.5) * p.steps / count).long()  # (N,)
    rng = generator(device, "held-out")
    total = torch.zeros((), device=device, dtype=torch.float64)
    for part in torch.arange(count, device=device).split(BATCH[device]):
        x0 = data.normalise(bench.held_out.images[part.cpu()].to(device))  # (N, C, S, S)
        noise = torch.randn(x0.shape, generator=rng, device=device)
        x = diffusion.add_noise(p, x0, index[part], noise)
        labels = bench.held_out.labels[part.cpu()].to(device)
        output = subject.net(x, p.timestep[index[part]], labels).float()[:, : x0.shape[1]]
        total += (output - noise).square().flatten(1).mean(1).sum()
    yield "val_loss", float(total / count)


EVALUATORS: dict[str, Callable[[Subject, Bench, Samples], Iterator[tuple[str, float]]]] = {
    "val_loss": val_loss,
    "fidelity": fidelity,
}


def evaluate(subject: Subject, bench: Bench) -> tuple[dict[str, float], Tensor]:
    """All metrics of a model, and its sheet of samples, uint8 (rows*S, 8*S, 3): a row for each of its first classes."""
    samples = Samples(subject)
    metrics = {name: value for run in EVALUATORS.values() for name, value in run(subject, bench, samples)}
    return metrics, sheet(samples.first, subject.dataset.classes)


def sheet(images: Tensor, classes: int) -> Tensor:
    """Samples in sequence order, uint8 (N, C, S, S) -> (rows*S, columns*S, 3): row r holds class r, at most 10 rows."""
    rows, side = min(classes, 10, len(images)), images.shape[-1]
    if classes > rows:  # too many classes for a row each: the first samples, in order
        rows = min(10, max(1, len(images) // COLUMNS))
        tiles = images[: rows * COLUMNS].unflatten(0, (rows, -1))
    else:
        columns = min(COLUMNS, len(images) // rows)
        tiles = images[: rows * columns].unflatten(0, (columns, rows)).transpose(0, 1)  # (rows, columns, C, S, S)
    rgb = data.to_rgb(tiles.flatten(0, 1)).unflatten(0, tiles.shape[:2])  # (rows, columns, 3, S, S)
    return rgb.permute(0, 3, 1, 4, 2).reshape(rows * side, -1, 3)
