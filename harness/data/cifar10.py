"""CIFAR-10."""

from pathlib import Path

import numpy as np

from harness.data.base import SPLITS, Dataset
from harness.data.fetch import impatient
from harness.data.files import parquet_path
from harness.errors import ConfigError, first_line


def _decode(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Through torchvision, which uses and checks what lies in the folder and else downloads it."""
    from torchvision.datasets import CIFAR10

    out = {}
    for split in SPLITS:
        try:
            with impatient():
                part = CIFAR10(str(folder), train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"cifar10: neither {parquet_path('cifar10', folder)} nor its original files in {folder} exist, and "
                f"they cannot be fetched ({first_line(error)}); put cifar-10-python.tar.gz there and run again"
            ) from None
        out[split] = (np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets, np.int64))
    return out


DATASET = Dataset(
    name="cifar10", channels=3, side=32, classes=10, bounded=True, decode=_decode,
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    digest="",
)  # fmt: skip
