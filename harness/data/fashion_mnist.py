"""Fashion-MNIST (Xiao et al., arXiv 1708.07747; MIT licence), padded to 32x32."""

import gzip
import hashlib
import subprocess
import tempfile
import zlib
from pathlib import Path

import numpy as np

from harness.data.base import SPLITS, Dataset
from harness.data.fetch import command, impatient
from harness.data.files import parquet_path
from harness.errors import ConfigError, first_line

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


def _decode(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
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

    with impatient():
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
        command(download, scratch)
    except RuntimeError:  # no package lists on this machine, or old ones: fetch our own, which needs no root
        command(["apt-get", "-qq", *private, "update"], scratch)
        command([*download, *private], scratch)
    package = next(iter(scratch.glob("*.deb")), None)
    if package is None:
        raise RuntimeError(f"apt-get download {DEBIAN_PACKAGE} left no package")
    command(["dpkg-deb", "-x", str(package), "unpacked"], scratch)
    return scratch / "unpacked" / "usr" / "share" / "datasets" / "fashion-mnist"


DATASET = Dataset(  # not to be flipped: all its shoes point to the left
    name="fashion-mnist", channels=1, side=32, classes=10, bounded=True, flip=False, decode=_decode,
    class_names=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                 "Ankle boot"),
    digest="df3e51fca1b02b4f632996314b216da3f21a924626128a368d945dc574ad9a95",
)  # fmt: skip
