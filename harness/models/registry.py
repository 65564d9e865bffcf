"""Backbones by name: the door of this room. Another one is another file and one line here."""

import torch
from torch import nn

from harness.config import Model
from harness.errors import ConfigError, first_line
from harness.naming import find, is_outside

from .dit import DiT
from .unet import UNet

# name -> class(model, channels, side, classes, outputs) with forward(x, t, y), and initialise(seed) if it needs one
BACKBONES = {"dit": DiT, "unet": UNet}


def build(model: Model, channels: int, side: int, classes: int, outputs: int, seed: int | None = 0) -> nn.Module:
    """The backbone a config names, initialised from `seed`, in fp32 on the current default device.

    A class without `initialise` keeps the weights that its layers are made with, which follow from the seed too. With
    `seed=None` the weights are left as they are, for the meta device or for weights to be loaded. channels C, side S
    and classes are the data's, outputs K the objective's. Raises ConfigError for an unknown backbone, outside code that
    is none, or a setting that the backbone cannot have.
    """
    backbone = find("model.backbone", model.backbone, BACKBONES)
    if not (isinstance(backbone, type) and issubclass(backbone, nn.Module)):
        raise ConfigError(
            f"model.backbone: '{model.backbone}' is of {type(backbone).__name__}; allowed: a class of torch.nn.Module"
        )
    with torch.random.fork_rng(devices=[]):  # layers draw weights when made: leave the global stream be
        torch.default_generator.manual_seed(seed or 0)
        try:
            net = backbone(model, channels, side, classes, outputs)
        except ConfigError:
            raise
        except Exception as error:
            if not is_outside(model.backbone):
                raise
            raise ConfigError(f"model.backbone: '{model.backbone}' cannot be made: {first_line(error)}") from error
    if state := sorted(net.state_dict().keys() - dict(net.named_parameters()).keys()):
        raise ConfigError(
            f"model.backbone: '{model.backbone}' keeps {state[0]}, which is no parameter and has no average; allowed: "
            "buffers that are not saved (persistent=False)"
        )
    return net if seed is None or not hasattr(net, "initialise") else net.initialise(seed)
