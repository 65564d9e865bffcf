"""ImageNet as latents."""

from pathlib import Path

from harness.data.base import MANIFEST, Dataset, Images
from harness.errors import ConfigError


def _no_latents(folder: Path) -> dict[str, Images]:
    raise ConfigError(
        f"imagenet-256-latents: {folder / 'imagenet-256-latents' / MANIFEST} does not exist; planning needs no data, "
        "training does: make latents NAME=imagenet-256-latents SOURCE=imagenet AUTOENCODER=stabilityai/sd-vae-ft-mse"
    )


DATASET = Dataset(
    name="imagenet-256-latents", channels=4, side=32, classes=1000, bounded=False, decode=None, read=_no_latents,
    class_names=(), digest="",
)  # fmt: skip
