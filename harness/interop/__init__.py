"""Weights to and from other programs: the official DiT's checkpoints and folders of diffusers' `DiTPipeline`.

    network = load_official("DiT-XL-2-256x256.pt")
    images = diffusion.sample(diffusion.process(), network.net(), labels, network.shape, bounded=False)

Both are the paper's adaLN-Zero DiT under other names, so nothing is lost on the way: weights come back bit for bit.
"""

from .diffusers import load_diffusers, save_diffusers
from .network import Network
from .official import load_official, save_official
from .registry import export
from .runs import load_run

__all__ = ["Network", "export", "load_diffusers", "load_official", "load_run", "save_diffusers", "save_official"]
