"""What is measured: a trained model, and the samples it draws."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from harness.config import Trial
from harness.data import registry as datasets
from harness.data.base import Dataset, to_rgb
from harness.diffusion.guidance import guided
from harness.diffusion.objectives import registry as objectives
from harness.diffusion.objectives.base import Objective
from harness.diffusion.samplers.registry import sample
from harness.streams import Noise

BATCH = {"cpu": 128, "cuda": 512}  # images sampled at once


@dataclass
class Subject:
    """A model under measurement: `net` holds the EMA weights in the training arithmetic, on `device`."""

    net: nn.Module
    trial: Trial
    device: str

    @cached_property
    def dataset(self) -> Dataset:
        return datasets.lookup(self.trial.data.dataset)

    @cached_property
    def objective(self) -> Objective:
        return objectives.objective(self.trial.diffusion, self.device)

    def generate(self, start: int, count: int) -> Tensor:
        """Samples start to start+count of an endless sequence as pictures, uint8 (N, C, S, S).

        Sample i is of class i modulo the classes, from the i-th noise: so every model of a sweep is asked for the same
        pictures, on every device and at any batch.
        """
        labels = torch.arange(start, start + count, device=self.device) % self.dataset.classes
        settings = self.trial.evaluate
        model = guided(self.net, self.dataset.classes, settings.guidance, settings.guidance_channels)
        fresh = Noise(self.dataset.shape, start, count, self.device, "samples")
        x = sample(self.objective, model, labels, settings.sampler, settings.steps, self.dataset.bounded, fresh)
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
        return to_rgb(self.held[i - self.start])
