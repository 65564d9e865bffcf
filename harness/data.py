"""Datasets: what a model needs to know of one, and its images in memory.

A dataset is one entry of `DATASETS`. Its original files are decoded once into `<folder>/<name>.parquet` (columns
split, label, image); from then on that file alone is read, and its content is checked against a digest each time.
A dataset of latents is a folder `<folder>/<name>` of its own (`harness.shards`), found by its manifest.

    python -m harness.data fashion-mnist --folder data
"""

import contextlib
import gzip
import hashlib
import io
import math
import os
import socket
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from harness.config import ConfigError, choose, first_line

SPLITS = ("train", "test")
AGAIN = "delete it and run again, and it will be made anew"
DIGEST_KEY = b"content-sha256"  # where a Parquet file's metadata keeps the digest of its content
MANIFEST = "manifest.json"  # of a folder of latents


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 pixels to float32 in [-1, 1], any shape; latents, which are floats, have their scale already."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Floats in [-1, 1] to the nearest uint8 pixel, any shape; what lies outside is clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_rgb(images: torch.Tensor) -> torch.Tensor:
    """(..., 1 or 3, H, W) to (..., 3, H, W): grey is repeated, without a copy."""
    return images.expand(*images.shape[:-3], 3, -1, -1)


@dataclass(frozen=True)
class Images:
    """A split in memory, shared by everyone in the process: not to be changed in place."""

    images: torch.Tensor  # (N, C, H, W) uint8, or anything that gives (C, H, W) for an index
    labels: torch.Tensor  # (N,) int64
    digest: str  # sha256 of the whole dataset's content, both splits

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int, device: str) -> "Images":
        """The first `count` (0: all), moved to the device once where it has memory of its own."""
        stop = count or len(self)
        return Images(self.images[:stop].to(device), self.labels[:stop].to(device), self.digest)

    def examples(
        self, chosen: torch.Tensor, mirrored: torch.Tensor | None, device: str, rng: torch.Generator
    ) -> torch.Tensor:
        """What is trained on, float32 (n, C, H, W): the images of indices (n,), flipped where `mirrored` (n,) says."""
        x = normalise(self.images[chosen].to(device, non_blocking=True))
        return x if mirrored is None else torch.where(mirrored[:, None, None, None], x.flip(-1), x)


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset without reading it."""

    name: str
    channels: int
    side: int  # pixels, or latent cells
    class_names: tuple[str, ...]  # empty where they are only numbers
    classes: int
    digest: str  # sha256 of the decoded content (`digest_of`); empty: trust the one kept in the Parquet file
    bounded: bool  # are the values pixels, in [-1, 1] when normalised? Latents are not
    decode: Callable[[Path], dict[str, tuple[np.ndarray, np.ndarray]]] | None  # folder -> split -> images, labels
    read: Callable[[Path], dict[str, Images]] | None = None  # folder -> split -> images, instead of a Parquet file
    to_pixels: Callable[[torch.Tensor], torch.Tensor] = to_uint8  # samples (N, C, H, W) -> uint8 pictures (N, K, S, S)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.channels, self.side, self.side


def lookup(name: str) -> Dataset:
    """Raises ConfigError for an unknown dataset."""
    return choose("data.dataset", name, DATASETS)


def discover(name: str, folder: Path | str) -> None:
    """Enter a dataset of latents in the registry if it lies in the folder, as it says of itself.

    Raises ConfigError if its manifest cannot be read.
    """
    home = Path(folder).resolve() / name
    if os.path.exists(home / MANIFEST):
        from harness.shards import entry  # which builds on this module

        DATASETS[name] = entry(home)


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


def parquet_path(name: str, folder: Path | str) -> Path:
    """Where the decoded dataset lies."""
    return Path(folder) / f"{name}.parquet"


def digest_of(splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """sha256 of both splits: images (N, C, H, W) uint8 and labels (N,) int64, their shapes and order."""
    sha = hashlib.sha256()
    for split in SPLITS:
        images, labels = splits[split]
        sha.update(f"{split}{images.shape}".encode())
        sha.update(np.ascontiguousarray(labels, "<i8"))
        sha.update(np.ascontiguousarray(images, np.uint8))
    return sha.hexdigest()


@lru_cache(maxsize=2)
def _splits(name: str, folder: str) -> dict[str, Images]:
    dataset, path = DATASETS[name], parquet_path(name, folder)
    if dataset.read:
        return dataset.read(Path(folder))
    if not os.path.exists(path):  # where pathlib's would raise for a folder that may not be entered
        _make(dataset, path)
    splits, kept = _read(dataset, path)
    found = digest_of(splits)
    if found != (dataset.digest or kept):
        raise ConfigError(f"{path}: content digest {found[:12]}, expected {(dataset.digest or kept)[:12]}; {AGAIN}")
    return {k: Images(torch.from_numpy(x), torch.from_numpy(y), found) for k, (x, y) in splits.items()}


def _make(dataset: Dataset, path: Path) -> None:
    """Decode the originals and write the Parquet file."""
    try:  # before the download
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    splits = dataset.decode(path.parent)
    digest = digest_of(splits)
    if dataset.digest and digest != dataset.digest:
        raise ConfigError(
            f"{dataset.name}: its original files in {path.parent} decode to content digest {digest[:12]}, expected "
            f"{dataset.digest[:12]}; delete them and run again to fetch them anew"
        )
    width = math.prod(dataset.shape)
    table = pa.table(
        {
            "split": pa.concat_arrays([pa.array([k] * len(y), pa.string()) for k, (_, y) in splits.items()]),
            "label": np.concatenate([y for _, y in splits.values()]).astype(np.int64),
            "image": pa.concat_arrays([_as_binary(x, width) for x, _ in splits.values()]),
        }
    ).replace_schema_metadata({DIGEST_KEY: digest})
    with whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", use_dictionary=["split"], write_statistics=["split"])


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` in one step: no reader ever sees half of it.

    Raises ConfigError if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: cannot be written ({error.strerror or error}); choose another data folder")


def _as_binary(images: np.ndarray, width: int) -> pa.Array:
    buffer = pa.py_buffer(np.ascontiguousarray(images, np.uint8))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(images), [None, buffer])


def _read(dataset: Dataset, path: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], str]:
    """Split -> (images, labels) of a Parquet file, and the digest that it carries."""
    try:
        table = pq.ParquetFile(path).read()  # read_table would spend a second importing pyarrow.dataset
        image = table["image"].combine_chunks()
        width = math.prod(dataset.shape)
        if image.type != pa.binary(width):
            raise ConfigError(f"{path}: column image is {image.type}, expected {width} bytes; {AGAIN}")
        # One buffer, viewed and not copied: numpy's boolean index below makes the only copy.
        pixels = np.frombuffer(image.buffers()[1], np.uint8, len(image) * width, image.offset * width)
        pixels, labels = pixels.reshape(-1, *dataset.shape), np.array(table["label"].to_pylist(), np.int64)
        column = np.array(table["split"].to_pylist())  # to_numpy would import pandas
        kept = (table.schema.metadata or {})[DIGEST_KEY].decode()
    except ConfigError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}); {AGAIN}") from None
    return {split: (pixels[column == split], labels[column == split]) for split in SPLITS}, kept


# Fashion-MNIST (MIT licence): four IDX files, and where they may be found. The checksums are of the decompressed
# bytes, since Debian's files differ from the published ones in the gzip header (no name, another time): with the
# publisher's header put back, all four have the md5 that torchvision lists.

IDX = {  # published file: (split, images or labels, sha256 decompressed)
    "train-images-idx3-ubyte.gz": (
        "train", "images", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    "train-labels-idx1-ubyte.gz": (
        "train", "labels", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte.gz": (
        "test", "images", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte.gz": (
        "test", "labels", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}  # fmt: skip
DEBIAN_PACKAGE = "dataset-fashion-mnist"


def _fashion_mnist(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """From files in the folder, else torchvision's download, else Debian's package."""
    for place in (folder / "fashion-mnist", folder / "FashionMNIST" / "raw"):
        if files := _idx_files(place):
            return _decode_idx(files)
    tried = []
    with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as scratch:
        for source in (_from_torchvision, _from_debian):
            try:
                if files := _idx_files(place := source(Path(scratch))):
                    return _decode_idx(files)
                tried.append(f"{place.name}: not the four files")
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                tried.append(first_line(error))
    raise ConfigError(
        f"fashion-mnist: neither {parquet_path('fashion-mnist', folder)} nor its four IDX files in "
        f"{folder / 'fashion-mnist'} exist, and they cannot be fetched ({'; '.join(tried)}); "
        f"put {', '.join(IDX)} there and run again"
    )


def _idx_files(place: Path) -> dict[str, Path]:
    """The four files, compressed or not, by published name; empty if one of them is missing."""
    found = {name: next((p for p in (place / name, place / name[:-3]) if p.is_file()), None) for name in IDX}
    return {} if None in found.values() else found


def _decode_idx(files: dict[str, Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N, 1, 32, 32), zero-padded from 28x28, and labels (N,) of both splits."""
    parts = {(split, kind): _idx(files[name], sha256) for name, (split, kind, sha256) in IDX.items()}
    out = {}
    for split in SPLITS:
        images, labels = parts[split, "images"], parts[split, "labels"]
        height, width = ((32 - side) // 2 for side in images.shape[1:])
        out[split] = (np.pad(images, ((0, 0), (height, height), (width, width)))[:, None], labels.astype(np.int64))
    return out


def _idx(path: Path, sha256: str) -> np.ndarray:
    """The uint8 array of one IDX file: 0, 0, type 8, number of dimensions, dimensions as big-endian int32, data."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        if (found := hashlib.sha256(raw).hexdigest()) != sha256:
            raise ValueError(f"sha256 of the content is {found[:12]}, expected {sha256[:12]}")
        start = 4 + 4 * raw[3]
        return np.frombuffer(raw, np.uint8, offset=start).reshape(np.frombuffer(raw, ">i4", raw[3], 4))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ConfigError(f"{path}: corrupt ({first_line(error)}); delete it and run again") from None


def _from_torchvision(scratch: Path) -> Path:
    """Folder of the four files, downloaded and checked by torchvision. Raises OSError or RuntimeError."""
    from torchvision.datasets import FashionMNIST

    with _impatient():
        try:
            FashionMNIST(str(scratch), download=True)
        except (OSError, RuntimeError) as error:
            raise RuntimeError(f"torchvision: {first_line(error)}") from error
    return scratch / "FashionMNIST" / "raw"


def _from_debian(scratch: Path) -> Path:
    """Folder of the same four files from Debian's package, unpacked without root. Raises OSError or RuntimeError."""
    lists = scratch / "lists"
    (lists / "partial").mkdir(parents=True)
    private = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={scratch}", "-o", "APT::Sandbox::User=root"]
    download = ["apt-get", "-qq", "-o", "Acquire::http::Timeout=30", "download", DEBIAN_PACKAGE]
    try:
        _command(download, scratch)
    except RuntimeError:  # no package lists on this machine, or old ones: fetch our own, which needs no root
        _command(["apt-get", "-qq", *private, "update"], scratch)
        _command([*download, *private], scratch)
    package = next(iter(scratch.glob("*.deb")), None)
    if package is None:
        raise RuntimeError(f"apt-get download {DEBIAN_PACKAGE} left no package")
    _command(["dpkg-deb", "-x", str(package), "unpacked"], scratch)
    return scratch / "unpacked" / "usr" / "share" / "datasets" / "fashion-mnist"


def _command(arguments: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300)
    except OSError as error:
        raise RuntimeError(f"{arguments[0]}: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{arguments[0]}: {lines[-1]}")


@contextlib.contextmanager
def _impatient(seconds: float = 20) -> Iterator[None]:
    """torchvision's downloads know no timeout and print; here an unanswered connection gives up, in silence."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


# The others.


def _cifar10(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Through torchvision, which uses and checks what lies in the folder and else downloads it."""
    from torchvision.datasets import CIFAR10

    out = {}
    for split in SPLITS:
        try:
            with _impatient():
                part = CIFAR10(str(folder), train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"cifar10: neither {parquet_path('cifar10', folder)} nor its original files in {folder} exist, and "
                f"they cannot be fetched ({first_line(error)}); put cifar-10-python.tar.gz there and run again"
            ) from None
        out[split] = (np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets, np.int64))
    return out


def _no_latents(folder: Path) -> dict[str, Images]:
    raise ConfigError(
        f"imagenet-256-latents: {folder / 'imagenet-256-latents' / MANIFEST} does not exist; planning needs no data, "
        "training does: make latents NAME=imagenet-256-latents SOURCE=imagenet AUTOENCODER=stabilityai/sd-vae-ft-mse"
    )


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="fashion-mnist", channels=1, side=32, classes=10, bounded=True, decode=_fashion_mnist,
            class_names=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                         "Ankle boot"),
            digest="df3e51fca1b02b4f632996314b216da3f21a924626128a368d945dc574ad9a95",
        ),
        Dataset(
            name="cifar10", channels=3, side=32, classes=10, bounded=True, decode=_cifar10,
            class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            digest="",
        ),
        Dataset(
            name="imagenet-256-latents", channels=4, side=32, classes=1000, bounded=False, decode=None,
            read=_no_latents, class_names=(), digest="",
        ),
    )
}  # fmt: skip


def main(dataset: str, folder: Path = Path("data")) -> None:
    """Prepare a dataset: fetch, check and decode it unless that is done, and say in one line what lies there."""
    try:
        counts = {split: len(load(dataset, split, folder)) for split in SPLITS}
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    where = folder / dataset if lookup(dataset).read else parquet_path(dataset, folder)
    print(f"{dataset}: {sizes} images in {where}")


if __name__ == "__main__":
    import typer

    typer.run(main)
