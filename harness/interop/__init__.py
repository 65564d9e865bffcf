"""Weights to and from other programs: the official DiT's checkpoints and folders of diffusers' `DiTPipeline`.

    import torch

    from harness.diffusion.guidance import guided
    from harness.diffusion.objectives.registry import objective
    from harness.diffusion.samplers.registry import sample
    from harness.interop import load_official
    from harness.streams import Noise

    network = load_official("DiT-XL-2-256x256.pt")
    labels, fresh = torch.tensor([207, 360]), Noise(network.shape, 0, 2, "cpu", "a seed")
    model = guided(network.net(), network.classes, 4.0)
    latents = sample(objective(network.diffusion), model, labels, "ddim", 50, network.bounded, fresh)

Both are the paper's adaLN-Zero DiT under other names, so weights come back bit for bit; what a format has no place for
is refused.
"""

from .diffusers import load_diffusers, save_diffusers
from .network import Network
from .official import load_official, save_official
from .registry import export
from .runs import load_run

__all__ = ["Network", "export", "load_diffusers", "load_official", "load_run", "save_diffusers", "save_official"]
