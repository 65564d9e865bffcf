"""What a model costs, counted from the built model.

`gflops` is the paper's unit: forward multiply-adds of one image in 1e9, a multiply-add counted once. Linear layers
and the attention matmuls count; biases, norms, softmax, activations and lookups do not.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.config import Model, Trial
from harness.data import registry as datasets
from harness.diffusion.objectives.registry import kind
from harness.diffusion.samplers.registry import calls
from harness.models.registry import build


@dataclass(frozen=True)
class Cost:
    """gflops: 1e9 multiply-adds, forward, one image. params: trainable. tokens: patches of an image."""

    gflops: float
    params: int
    tokens: int

    def train_gflops(self, images: int) -> float:
        """Training compute in 1e9 multiply-adds after `images` seen: backward is twice forward (paper Figure 9)."""
        return 3 * self.gflops * images


def cost(trial: Trial) -> Cost:
    """Raises ConfigError for a dataset, backbone or patch that cannot be."""
    return _count(trial.model, *interface(trial))


def interface(trial: Trial) -> tuple[int, int, int, int]:
    """What a backbone is built for besides its shape: channels C, side S and classes of the data, outputs K.

    Raises ConfigError for an unknown dataset or objective.
    """
    data = datasets.lookup(trial.data.dataset)
    return data.channels, data.side, data.classes, kind(trial.diffusion.objective).outputs(data.channels)


@cache
def _count(model: Model, channels: int, side: int, classes: int, outputs: int) -> Cost:
    with torch.device("meta"):  # shapes only: XL costs no memory and no time
        net = build(model, channels, side, classes, outputs, seed=None)
        x, index = torch.empty(1, channels, side, side), torch.empty(1, dtype=torch.long)
        # Torch counts two operations a multiply-add.
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(x, index, index)
    params = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Cost(counter.get_total_flops() / 2e9, params, (side // model.patch) ** 2)


def work(trial: Trial, images: int | None = None, evaluations: int | None = None) -> float:
    """A trial's model compute, training and sampling, in 1e9 multiply-adds: for ETAs and for ordering.

    Of the whole trial, or up to `images` seen and `evaluations` made.
    """
    priced, wanted = cost(trial), trial.evaluate
    images = trial.train.steps * trial.train.batch if images is None else images
    evaluations = len(trial.cadence) if evaluations is None else evaluations
    return priced.train_gflops(images) + evaluations * priced.gflops * wanted.samples * calls(wanted)
