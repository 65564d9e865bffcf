"""The autoencoder between pixels and latents: diffusers' AutoencoderKL, with the scale that its own config names.

A latent of this project is (z - shift) * scale for the autoencoder's own z; the paper's scale is 0.18215. It computes
in fp32 (TF32 on CUDA), both ways: images are encoded once for all, and bf16 would round every latent by up to 0.2 %.

diffusers takes seconds to import, which only those who need an autoencoder should wait for.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.data.base import normalise, to_uint8
from harness.errors import ConfigError, first_line

BATCH = {"cpu": 8, "cuda": 32}  # images at once: at 256x256 a convolution's output takes 34 MB an image


@dataclass(frozen=True)
class Autoencoder:
    """An AutoencoderKL that is only used, never trained."""

    net: nn.Module
    name: str  # the folder or hub name it was loaded from
    digest: str  # sha256 of its weights, scale and shift

    @property
    def scale(self) -> float:
        return float(self.net.config.scaling_factor)

    @property
    def shift(self) -> float:
        return float(self.net.config.shift_factor or 0)

    def shape(self, side: int) -> tuple[int, int, int]:
        """(C, S, S) of the latents of images of a side in pixels. Raises ConfigError for a side that does not fit."""
        shrink = 2 ** (len(self.net.config.block_out_channels) - 1)
        if side < shrink or side % shrink:
            raise ConfigError(f"side: {side} pixels; allowed with this autoencoder: multiples of {shrink}")
        return self.net.config.latent_channels, side // shrink, side // shrink

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """The posteriors of images, uint8 (N, 3, H, W), as float16 (N, 2, 2, C, S, S) on the device they lie on.

        First of an image as it is, then of its mirror image; of each the mean, then the standard deviation.
        """
        net, x = self.net.to(images.device), normalise(images)
        views = []
        for view in (x, x.flip(-1)):
            z = net.encode(view).latent_dist
            views.append(torch.stack([(z.mean - self.shift) * self.scale, z.std * self.scale], 1))  # (N, 2, C, S, S)
        return torch.stack(views, 1).half()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents, floats (N, C, S, S), to images, uint8 (N, 3, H, W), on the device they lie on."""
        net, z = self.net.to(latents.device), latents.float() / self.scale + self.shift
        return torch.cat([to_uint8(net.decode(part).sample) for part in z.split(BATCH[z.device.type])])

    def save(self, folder: Path) -> None:
        """Write it as diffusers does, config and safetensors, so that `load` finds it there."""
        self.net.save_pretrained(folder)


def load(name: str) -> Autoencoder:
    """From a folder that diffusers wrote, or by name from the Hugging Face hub; it lies on the CPU then.

    Raises ConfigError for what is not an AutoencoderKL with all its weights.
    """
    import diffusers

    diffusers.logging.set_verbosity_error()  # what it would say of missing weights is said below
    wanted = "allowed: a folder that diffusers saved an AutoencoderKL to, or its name on the Hugging Face hub"
    try:
        net, report = diffusers.AutoencoderKL.from_pretrained(name, low_cpu_mem_usage=False, output_loading_info=True)
    except Exception as error:  # the folder may hold anything, and each library below complains in its own way
        raise ConfigError(f"autoencoder: '{name}' cannot be loaded ({first_line(error)}); {wanted}") from None
    if missing := report["missing_keys"]:
        raise ConfigError(f"autoencoder: '{name}' lacks {len(missing)} of an AutoencoderKL's weights; {wanted}")
    net = net.float().eval().requires_grad_(False)
    return Autoencoder(net, name, _digest(net))


def _digest(net: nn.Module) -> str:
    sha = hashlib.sha256(f"{net.config.scaling_factor} {net.config.shift_factor}".encode())
    for name, weight in sorted(net.state_dict().items()):
        sha.update(f"{name}{tuple(weight.shape)}".encode())
        sha.update(weight.contiguous().numpy())
    return sha.hexdigest()
