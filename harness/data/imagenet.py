"""ImageNet as latents, of 256x256 and of 512x512 pixels: enough is known of them to plan before there are any."""

from pathlib import Path

from harness.data.base import MANIFEST, Dataset, Images
from harness.errors import ConfigError

SHRINK = 8  # pixels to a latent cell, along a side


def _latents(pixels: int) -> Dataset:
    """The entry for images of a side in pixels, for as long as there is no folder of them."""
    name = f"imagenet-{pixels}-latents"

    def missing(folder: Path) -> dict[str, Images]:
        raise ConfigError(
            f"{name}: {folder / name / MANIFEST} does not exist; planning needs no data, training does: make latents "
            f"NAME={name} SIDE={pixels} SOURCE=imagenet AUTOENCODER=stabilityai/sd-vae-ft-mse"
        )

    return Dataset(
        name=name, channels=4, side=pixels // SHRINK, classes=1000, bounded=False, flip=True, decode=None,
        read=missing, class_names=(), digest="",
    )  # fmt: skip


LATENTS_256, LATENTS_512 = _latents(256), _latents(512)
