"""A decoded dataset on disk: `<folder>/<name>.parquet` (columns split, label, image), whole or not at all.

Its original files are decoded once; from then on this file alone is read, and its content is checked against a digest
each time.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.data.base import SPLITS, Dataset
from harness.errors import ConfigError, first_line

AGAIN = "delete it and run again, and it will be made anew"
DIGEST_KEY = b"content-sha256"  # where a Parquet file's metadata keeps the digest of its content


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


def make(dataset: Dataset, path: Path) -> None:
    """Decode the originals and write the Parquet file."""
    try:  # before the download
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    splits = dataset.decode(path.parent)
    _check(dataset, splits)
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


def _check(dataset: Dataset, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Raises ConfigError for what cannot be kept as it is: decoding may be code of the user's own."""
    for split in SPLITS:
        images, labels = map(np.asarray, splits.get(split, ((), ())))
        if images.dtype != np.uint8 or images.shape[1:] != dataset.shape or labels.shape != images.shape[:1]:
            shape = ", ".join(map(str, dataset.shape))
            raise ConfigError(
                f"{dataset.name}: its {split} images are {images.dtype} {images.shape} with labels {labels.shape}; "
                f"allowed: uint8 (N, {shape}) with labels (N,)"
            )
        if wrong := sorted(set(labels.tolist()) - set(range(dataset.classes))):
            raise ConfigError(
                f"{dataset.name}: its {split} images have the label {wrong[0]}; allowed: 0 to {dataset.classes - 1}"
            )


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


def read(dataset: Dataset, path: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], str]:
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
