"""Backbones by name. Another one is another file and one line here."""

import torch
from torch import nn

from harness.config import Model
from harness.naming import choose

from .dit import DiT
from .unet import UNet

# name -> class(model, channels, side, classes) with forward(x, t, y) and initialise(seed)
BACKBONES = {"dit": DiT, "unet": UNet}


def build(model: Model, channels: int, side: int, classes: int, seed: int | None = 0) -> nn.Module:
    """The backbone a config names, initialised from `seed`, in fp32 on the current default device.

    With `seed=None` the weights are left as they are, for the meta device or for weights to be loaded.
    Raises ConfigError for an unknown backbone, or a setting that the backbone cannot have.
    """
    backbone = choose("model.backbone", model.backbone, BACKBONES)
    with torch.random.fork_rng(devices=[]):  # layers draw throw-away weights when made; leave the global stream be
        net = backbone(model, channels, side, classes)
    return net if seed is None else net.initialise(seed)
