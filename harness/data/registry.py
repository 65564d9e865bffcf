"""Datasets by name, and their images in memory: the door of this room.

A dataset is a file here and a line of `DATASETS`. A dataset of latents is a folder `<folder>/<name>` of its own
(`shards`), found by its manifest.
"""

import os
from functools import lru_cache
from pathlib import Path

import torch

from harness.config import Data
from harness.data import cifar10, fashion_mnist, files, imagenet, shards
from harness.data.base import MANIFEST, SPLITS, Dataset, Images
from harness.errors import ConfigError
from harness.naming import choose

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (fashion_mnist.DATASET, cifar10.DATASET, imagenet.DATASET)
}


def lookup(name: str) -> Dataset:
    """Raises ConfigError for an unknown dataset."""
    return choose("data.dataset", name, DATASETS)


def discover(name: str, folder: Path | str) -> None:
    """Enter a dataset of latents in the registry if it lies in the folder, as it says of itself.

    Raises ConfigError if its manifest cannot be read.
    """
    home = Path(folder).resolve() / name
    if os.path.exists(home / MANIFEST):
        DATASETS[name] = shards.entry(home)


def load(name: str, split: str, folder: Path | str) -> Images:
    """A split (`train` or `test`) of a dataset, kept in memory for the life of the process.

    Makes `<folder>/<name>.parquet` the first time, from files in the folder or from the network.
    Raises ConfigError, one line, when the data can neither be found nor trusted.
    """
    discover(name, folder)
    lookup(name)
    if split not in SPLITS:
        raise ConfigError(f"unknown split '{split}' of {name}; allowed: {', '.join(SPLITS)}")
    return _splits(name, str(Path(folder).resolve()))[split]


def reference(name: str, count: int, folder: Path | str) -> Images:
    """Real training images as pictures, for distances: at least the first `count`, or as many as there are.

    Raises ConfigError as `load` does, and if fewer were kept when the dataset was encoded.
    """
    train = load(name, "train", folder)
    pictures = _splits(name, str(Path(folder).resolve())).get("reference", train)
    if len(pictures) < min(count, len(train)):
        raise ConfigError(
            f"evaluate.reference: {count} exceeds the {len(pictures)} pictures that were kept of {name}; take so many, "
            f"or delete {Path(folder) / name} and encode it with more"
        )
    return pictures


@lru_cache(maxsize=2)
def _splits(name: str, folder: str) -> dict[str, Images]:
    dataset, path = DATASETS[name], files.parquet_path(name, folder)
    if dataset.read:
        return dataset.read(Path(folder))
    if not os.path.exists(path):  # where pathlib's would raise for a folder that may not be entered
        files.make(dataset, path)
    splits, kept = files.read(dataset, path)
    found = files.digest_of(splits)
    if found != (dataset.digest or kept):
        raise ConfigError(
            f"{path}: content digest {found[:12]}, expected {(dataset.digest or kept)[:12]}; {files.AGAIN}"
        )
    return {k: Images(torch.from_numpy(x), torch.from_numpy(y), found) for k, (x, y) in splits.items()}


def flips(settings: Data) -> bool:
    """Does training flip half of its images? What `data.flip` says, or else the dataset itself."""
    return lookup(settings.dataset).flip if settings.flip == "own" else settings.flip == "on"
