"""Datasets by name, and their images in memory: the door of this room.

A dataset is a file here and a line of `DATASETS`. A dataset of latents is a folder `<folder>/<name>` of its own
(`shards`), found by its manifest. One of the user's own package is named `package.module:NAME`: a `Dataset`, or what
returns one when it is called without arguments; on disk it has its own `name`.
"""

import os
from functools import cache, lru_cache
from pathlib import Path

import torch

from harness.config import Data
from harness.data import cifar10, fashion_mnist, files, imagenet, shards
from harness.data.base import MANIFEST, NAME, NAMES, SPLITS, Dataset, Images
from harness.errors import ConfigError, first_line
from harness.naming import find, is_outside

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (fashion_mnist.DATASET, cifar10.DATASET, imagenet.LATENTS_256, imagenet.LATENTS_512)
}
WANTED = "allowed: a harness.data.base.Dataset, or what returns one when it is called without arguments"


def lookup(name: str) -> Dataset:
    """Raises ConfigError for an unknown dataset, and for what is none."""
    return _outside(name) if is_outside(name) else find("data.dataset", name, DATASETS)


@cache
def _outside(name: str) -> Dataset:
    """The dataset that `package.module:NAME` names, made once a process."""
    dataset = find("data.dataset", name, {})
    if callable(dataset):
        try:
            dataset = dataset()
        except Exception as error:  # whatever its own code raises
            raise ConfigError(f"data.dataset: '{name}' cannot be made ({first_line(error)}); {WANTED}") from None
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"data.dataset: '{name}' is of type {type(dataset).__name__}; {WANTED}")
    if not NAME.fullmatch(dataset.name):
        raise ConfigError(f"data.dataset: the name '{dataset.name}' of '{name}' cannot be a file's; allowed: {NAMES}")
    if DATASETS.get(dataset.name, dataset) is not dataset:
        raise ConfigError(f"data.dataset: the name '{dataset.name}' of '{name}' is another dataset's; choose another")
    if not (dataset.decode or dataset.read):
        raise ConfigError(f"data.dataset: '{name}' has no images; allowed: a Dataset with `decode` or `read`")
    return dataset


def discover(name: str, folder: Path | str) -> None:
    """Enter a dataset of latents in the registry if it lies in the folder, as it says of itself.

    Raises ConfigError if its manifest cannot be read.
    """
    if not NAME.fullmatch(name):  # no folder's name, but of code, or of a path to somewhere else
        return
    home = Path(folder).resolve() / name
    if os.path.exists(home / MANIFEST):
        DATASETS[name] = shards.entry(home)


def load(name: str, split: str, folder: Path | str) -> Images:
    """A split (`train` or `test`) of a dataset, kept in memory for the life of the process.

    Makes the Parquet file the first time, from files in the folder or from the network.
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
            f"or delete {Path(folder) / lookup(name).name} and encode it with more"
        )
    return pictures


@lru_cache(maxsize=2)
def _splits(name: str, folder: str) -> dict[str, Images]:
    dataset = lookup(name)
    path = files.parquet_path(dataset.name, folder)
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
