"""A folder of images as a source: which files, of which class and split, in which order, and the crop of one.

    ROOT/CLASS/**/*.png                         a share of the images is held out
    ROOT/train/CLASS/** with ROOT/val/CLASS/**  (or test/) the splits as they are: ImageNet, for one

Order and hold-out follow a seeded hash of each file's content. So neither names nor the file system decide anything,
the first N images are a fair sample of all, and copies of one picture are never on both sides of the hold-out.
"""

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.data.files import whole
from harness.errors import ConfigError, first_line

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
AHEAD = 256  # images that threads may read before they are asked for
NAMED = 3  # unreadable files that an error names

T, U = TypeVar("T"), TypeVar("U")


@dataclass(frozen=True, slots=True)
class Picture:
    """One image file of a source."""

    file: str  # below the root
    label: int
    sha256: str  # of the file's bytes


@dataclass(frozen=True)
class Source:
    """The images of a folder, each split in its order."""

    root: Path
    class_names: tuple[str, ...]
    splits: dict[str, list[Picture]]  # train and test
    ignored: int  # files that are no image of a class

    @cached_property
    def digest(self) -> str:
        """sha256 of the classes, and of content, label and order of the images. Names of files do not matter."""
        sha = hashlib.sha256("\n".join(self.class_names).encode())
        for split, pictures in self.splits.items():
            sha.update(split.encode())
            for picture in pictures:
                sha.update(f"{picture.label} {picture.sha256}\n".encode())
        return sha.hexdigest()


def scan(root: Path, held_out: float, seed: int, memory: Path, tell: Callable[[int, int], None]) -> Source:
    """Find the images of a folder, see that every one of them can be read, split and order them.

    held_out: the share of them for the test split, where the folder has no splits. memory: a file that keeps what was
    checked, so that the next time only new and changed images are read. tell: is told images checked, of how many.
    Raises ConfigError, one line, for a folder without images and for images that cannot be read.
    """
    folders = _folders(root)
    walks = {split: _walk(root, folder) for split, folder in folders.items()}
    labels = {name: label for label, name in enumerate(sorted(walks["train"][0]))}
    for split, (classes, _) in walks.items():
        _check_classes(folders[split], classes, labels)
    found = {
        split: [(file, labels[name]) for name, files in classes.items() for file in files]
        for split, (classes, _) in walks.items()
    }
    sums = _checksums(root, [file for pairs in found.values() for file, _ in pairs], memory, tell)
    splits = {
        split: sorted(
            (Picture(file, label, sums[file]) for file, label in pairs),
            key=lambda picture: (_rank(picture, seed), picture.file),
        )
        for split, pairs in found.items()
    }
    if "test" not in splits:
        splits = _hold_out(root, splits["train"], held_out)
    return Source(root, tuple(labels), splits, sum(ignored for _, ignored in walks.values()))


def ahead(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`function` of each item, in order, worked out by threads before it is asked for: PIL lets them run at once."""
    with ThreadPoolExecutor() as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def decode(content: bytes) -> Image.Image:
    """A file's bytes as RGB. Raises whatever its decoder pleases where they are damaged."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def read(path: Path, side: int) -> np.ndarray:
    """The crop of a file, uint8 (3, side, side). Raises ConfigError if it cannot be read."""
    try:
        return crop(decode(path.read_bytes()), side)
    except Exception as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}) any more; put it back and run again") from None


def crop(image: Image.Image, side: int) -> np.ndarray:
    """The largest centred square at `side` pixels, uint8 (3, side, side), as ADM makes it (arXiv 2105.05233).

    Halved by box filters while the shorter side stays at least twice as long as wanted, then bicubic, then cut.
    """
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def to_png(image: np.ndarray) -> bytes:
    """uint8 (3, H, W) as a PNG, lossless: quickly made rather than small."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, "png", compress_level=1)
    return file.getvalue()


def from_png(content: bytes) -> np.ndarray:
    """The inverse of `to_png`."""
    return np.array(decode(content)).transpose(2, 0, 1)


# Finding files


def _folders(root: Path) -> dict[str, Path]:
    """Split -> the folder of its class folders: train and test, or train alone where some are to be held out."""
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; expected one of images, as CLASS/*.png")
    for test in ("val", "test"):  # in this order: ImageNet's test images have no labels
        if (root / "train").is_dir() and (root / test).is_dir():
            return {"train": root / "train", "test": root / test}
    return {"train": root}


def _walk(root: Path, folder: Path) -> tuple[dict[str, list[str]], int]:
    """Class -> its image files, below the root, and how many other files there are."""
    classes, ignored = {}, 0
    for at, below, files in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        parts, here = Path(at).relative_to(folder).parts, Path(at).relative_to(root).as_posix()
        if len(parts) == 1:
            classes[parts[0]] = []
        for name in sorted(files):
            if parts and name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                classes[parts[0]].append(f"{here}/{name}")
            else:
                ignored += 1
    return classes, ignored


def _check_classes(folder: Path, classes: dict[str, list[str]], known: Iterable[str]) -> None:
    kinds = ", ".join(EXTENSIONS)
    if not classes:
        raise ConfigError(f"{folder}: no class folders; expected images ({kinds}) as CLASS/*.png")
    for name, files in classes.items():
        if not files:
            raise ConfigError(f"{folder / name}: no images ({kinds}) in this class folder; add some or remove it")
        if name not in known:
            raise ConfigError(f"{folder / name}: not one of the classes to train on; remove or rename it")


# Order


def _rank(picture: Picture, seed: int) -> str:
    return hashlib.sha256(f"{seed} {picture.sha256}".encode()).hexdigest()


def _hold_out(root: Path, pictures: list[Picture], share: float) -> dict[str, list[Picture]]:
    """The first ones by rank are the test split, and with the last of them every copy of it."""
    count = max(1, round(share * len(pictures)))
    while count < len(pictures) and pictures[count].sha256 == pictures[count - 1].sha256:
        count += 1
    if count == len(pictures):
        raise ConfigError(f"{root}: {count} images are too few to train on and to hold some out")
    return {"train": pictures[count:], "test": pictures[:count]}


# Checking files


def _checksums(root: Path, files: list[str], memory: Path, tell: Callable[[int, int], None]) -> dict[str, str]:
    """File -> sha256 of its bytes. Raises ConfigError naming those that cannot be read."""
    stamps = {file: _stamp(root / file) for file in files}
    known = _recall(memory)
    sums = {file: known[file, *stamp] for file, stamp in stamps.items() if (file, *stamp) in known}
    new, bad = [file for file in files if file not in sums], []
    for file, (checksum, reason) in zip(new, ahead(lambda file: _check(root / file), new), strict=True):
        if reason:
            bad.append(f"{root / file} ({reason})")
        else:
            sums[file] = checksum
        tell(len(sums) + len(bad), len(files))
    if new and sums:
        _remember(memory, {(file, *stamps[file]): checksum for file, checksum in sums.items()})
    if bad:
        more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
        raise ConfigError(
            f"{len(bad):,} of {len(files):,} images cannot be read: {', '.join(bad[:NAMED])}{more}; "
            "repair or remove them and run again"
        )
    return sums


def _stamp(path: Path) -> tuple[int, int]:
    """Bytes and nanoseconds of the last change: a file of the same stamp is taken to be unchanged."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _check(path: Path) -> tuple[str, str]:
    """sha256 of an image file, or why it cannot be read."""
    try:
        content = path.read_bytes()
        decode(content)
    except Exception as error:  # the decoders raise anything from OSError to SyntaxError
        return "", first_line(error)
    return hashlib.sha256(content).hexdigest(), ""


def _recall(memory: Path) -> dict[tuple[str, int, int], str]:
    """(file, bytes, nanoseconds) -> sha256, of what was checked before."""
    try:
        columns = pq.ParquetFile(memory).read().to_pydict()
    except (pa.ArrowException, OSError):  # not there yet; or damaged, then all is checked again
        return {}
    keys = zip(*(columns[name] for name in ("file", "bytes", "changed")), strict=True)
    return dict(zip(keys, columns["sha256"], strict=True))


def _remember(memory: Path, sums: dict[tuple[str, int, int], str]) -> None:
    file, size, changed = zip(*sums, strict=True)
    with whole(memory) as temporary:
        table = pa.table({"file": file, "bytes": size, "changed": changed, "sha256": list(sums.values())})
        pq.write_table(table, temporary, compression="zstd")
