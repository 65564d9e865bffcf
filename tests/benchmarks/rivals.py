"""What one would write without this project: a training loop on diffusers' DiT, and its sampling pipeline.

diffusers is imported where it is used: it takes seconds, and the other tests collect this folder too.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.config import Trial
from harness.cost import cost
from harness.data import registry as datasets
from harness.data.base import Images, normalise
from harness.diffusion.objectives import registry as objectives

if TYPE_CHECKING:
    from diffusers import DiTPipeline, DiTTransformer2DModel

EMBEDDERS = "diffusers' DiT embeds timestep and class anew in every block: more parameters, same trunk"
NULL = 1000  # DiTPipeline's null class, whatever the model's: under guidance its table must reach so far


def transformer(trial: Trial, classes: int | None = None) -> "DiTTransformer2DModel":
    """diffusers' DiT in the shape of a trial's model, for the classes of its dataset unless told otherwise.

    Its label dropout is off: each block would draw its own, so one image would be half with and half without a class.
    """
    from diffusers import DiTTransformer2DModel
    from diffusers.models.embeddings import LabelEmbedding

    model, dataset = trial.model, datasets.lookup(trial.data.dataset)
    net = DiTTransformer2DModel(
        num_attention_heads=model.heads,
        attention_head_dim=model.width // model.heads,
        in_channels=dataset.channels,
        out_channels=2 * dataset.channels,
        num_layers=model.depth,
        sample_size=dataset.side,
        patch_size=model.patch,
        num_embeds_ada_norm=classes or dataset.classes,
    )
    for module in net.modules():
        if isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0
    return net


def assert_alike(trial: Trial) -> None:
    """Both models have the same parameters and Gflops, apart from diffusers' embedders: one a block, called once more.

    Ours has one; the label's table has a row for each class and one for none.
    """
    dataset, width, depth = datasets.lookup(trial.data.dataset), trial.model.width, trial.model.depth
    with torch.device("meta"):
        net = transformer(trial)
        x, index = torch.empty(1, *dataset.shape), torch.empty(1, dtype=torch.long)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(x, index, index)
    timestep = 256 * width + width**2  # two linear layers, without their biases
    embedder = timestep + 2 * width + (dataset.classes + 1) * width
    ours = cost(trial)
    assert sum(p.numel() for p in net.parameters()) == ours.params + (depth - 1) * embedder
    assert counter.get_total_flops() / 2 == round(ours.gflops * 1e9) + depth * timestep


class PlainLoop:
    """The usual loop: AdamW, EMA a parameter at a time, in fp32 or under bf16 autocast, compiled or not.

    The loss is ours, so that both minimise the same; compiled, it is fused with the model as the model's own.
    """

    def __init__(self, trial: Trial, images: Images, autocast: bool = False, compiled: bool = False):
        self.trial, self.images, self.autocast = trial, images, autocast
        self.classes = datasets.lookup(trial.data.dataset).classes
        self.net = transformer(trial).train()
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        train = trial.train
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=train.lr, betas=(train.beta1, train.beta2), weight_decay=train.weight_decay
        )
        self.objective = objectives.objective(trial.diffusion)
        self.loss = torch.compile(self.eager_loss, dynamic=False) if compiled else self.eager_loss

    def eager_loss(self, x0: Tensor, y: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x0 and noise (N, C, S, S), y and t (N,) -> ()."""
        return self.objective.loss(self.ask, x0, y, t, noise).total.mean()

    def ask(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The model as an objective asks it: (N, C, S, S), (N,), (N,) -> (N, K, S, S)."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return self.net(x, timestep=t, class_labels=y).sample

    def step(self) -> float:
        """One update on a random batch with flips and dropped classes; returns the loss."""
        count, settings = self.trial.train.batch, self.trial
        chosen = torch.randint(len(self.images), (count,))
        x0, y = normalise(self.images.images[chosen]), self.images.labels[chosen]
        if datasets.flips(settings.data):
            x0 = torch.where(torch.rand(count, 1, 1, 1) < 0.5, x0.flip(-1), x0)
        y = torch.where(torch.rand(count) < settings.train.label_dropout, self.classes, y)
        t = torch.randint(settings.diffusion.timesteps, (count,))
        loss = self.loss(x0, y, t, torch.randn_like(x0))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.no_grad():
            for average, parameter in zip(self.average.parameters(), self.net.parameters(), strict=True):
                average.mul_(0.9999).add_(parameter, alpha=1 - 0.9999)
        return loss.item()


def loops(trial: Trial, images: Images) -> dict[str, Callable[[], float]]:
    """The three loops that ours is compared with, by name."""
    torch._dynamo.reset()
    return {
        "fp32": PlainLoop(trial, images).step,
        "bf16 autocast": PlainLoop(trial, images, autocast=True).step,
        "bf16 autocast, compiled": PlainLoop(trial, images, autocast=True, compiled=True).step,
    }


def pipeline(trial: Trial) -> "DiTPipeline":
    """diffusers' sampling pipeline in fp32, DDIM, with an autoencoder too small to matter."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline

    channels = datasets.lookup(trial.data.dataset).channels
    autoencoder = AutoencoderKL(
        in_channels=channels, out_channels=channels, latent_channels=channels, block_out_channels=(2,),
        norm_num_groups=1, layers_per_block=1, mid_block_add_attention=False, scaling_factor=1.0,
    )  # fmt: skip
    made = DiTPipeline(transformer(trial, NULL).eval(), autoencoder.eval(), DDIMScheduler())
    made.set_progress_bar_config(disable=True)
    return made
