"""Latents on disk: the folder `<data>/<name>` that `latents` writes, and what trials read of it.

    manifest.json             what it is (`Manifest`), written last: without it the folder is unfinished
    train-00000.parquet ...   file, label and moments (`Latents`) of up to `rows` images; test-00000.parquet ... too
    reference-00000.parquet   file, label and picture (PNG) of the first training images, cropped: the real side of FID
    autoencoder/              the autoencoder as diffusers saves it: samples are decoded with it
    checked.parquet           which source files were seen to be whole (`pictures`)
    mapped/                   made at the first use: the moments of a split as one array, which may be deleted

Kept of an image are the mean and the standard deviation of its latents, and the same of its mirror image: the paper's
code flips a picture before it encodes it, where the flip of a latent is another thing, and draws from the posterior
each time it uses one. Both are had here, at four times the bytes of a latent: 32 KB an image of 256x256 pixels,
44 GB for ImageNet. The array is mapped into memory and not read: all workers of a machine share one copy of what they
touch. Parquet cannot be mapped, which is why there are two.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from harness.data import autoencoder
from harness.data.autoencoder import Autoencoder
from harness.data.base import MANIFEST, SPLITS, Dataset, Images
from harness.data.files import DIGEST_KEY, whole
from harness.data.pictures import Picture, from_png
from harness.errors import ConfigError, first_line

REFERENCE = "reference"  # beside train and test: the training images as pictures
COLUMN = {"train": "moments", "test": "moments", REFERENCE: "picture"}
RECIPE_KEY = b"recipe"  # where a shard's metadata keeps what it was made from
GROUP = 100  # rows of a Parquet row group: the pictures that are held at once
AGAIN = "delete it and run `make latents` again, and it alone will be made anew"


class Manifest(BaseModel):
    """What a finished folder holds."""

    model_config = ConfigDict(frozen=True)

    channels: int
    side: int  # of a latent, in cells
    image_side: int  # of a picture, in pixels
    class_names: tuple[str, ...]
    flip: bool = True  # is a mirror image as likely as the image itself? Older manifests do not say
    counts: dict[str, int]  # images of each split, and of the reference
    rows: int  # of a shard, but for the last of its split
    scale: float  # latents are (z - shift) * scale for the autoencoder's z
    shift: float
    autoencoder: str  # the name it was given by
    autoencoder_digest: str  # sha256 of its weights, scale and shift
    source_digest: str  # sha256 of the images' content, labels and order
    shards: dict[str, str]  # file -> sha256 of its content
    digest: str  # sha256 over the shards, and over `flip` where it is false: the dataset's

    def files(self, home: Path, split: str) -> list[Path]:
        return [home / name for name in self.shards if name.startswith(f"{split}-")]


@dataclass(frozen=True)
class Latents(Images):
    """A split of latents. `images`, what held-out losses are measured on, are the means (N, C, S, S), float16."""

    moments: Tensor  # (N, 2, 2, C, S, S) float16: the image and its mirror image; mean and standard deviation

    @staticmethod
    def of(moments: Tensor, labels: Tensor, digest: str) -> "Latents":
        return Latents(moments[:, 0, 0], labels, digest, moments)

    def first(self, count: int, device: str) -> "Latents":
        """The first `count` (0: all), on the device if they leave room enough there, else where they are mapped."""
        moments = self.moments[: count or len(self)]
        if device != "cpu" and moments.nbytes < torch.cuda.mem_get_info()[0] / 4:
            moments = moments.to(device)
        return Latents.of(moments, self.labels[: len(moments)].to(moments.device), self.digest)

    def examples(self, chosen: Tensor, mirrored: Tensor | None, device: str, rng: torch.Generator) -> Tensor:
        rows = self.moments[chosen]  # (n, 2, 2, C, S, S)
        if device != "cpu" and not rows.is_cuda:
            rows = rows.pin_memory().to(device, non_blocking=True)
        rows = rows.float()
        if mirrored is None:
            mean, std = rows[:, 0].unbind(1)
        else:
            mean, std = torch.where(mirrored[:, None, None, None, None], rows[:, 1], rows[:, 0]).unbind(1)
        return mean + std * torch.randn(mean.shape, generator=rng, device=device)


class Pictures:
    """The reference images, uint8 (N, 3, H, W), decoded when they are asked for: 50,000 of 256x256 would be 10 GB."""

    def __init__(self, files: list[Path], manifest: Manifest):
        self.files, self.rows = files, manifest.rows
        self.shape = (manifest.counts[REFERENCE], 3, manifest.image_side, manifest.image_side)
        self._held: tuple[tuple[int, int], list[bytes]] | None = None  # (shard, row group) and its PNGs

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> Tensor:
        shard, row = divmod(i, self.rows)
        place = shard, row // GROUP
        if self._held is None or self._held[0] != place:
            group = _read_parquet(self.files[shard], [COLUMN[REFERENCE]], row // GROUP)
            self._held = place, group[COLUMN[REFERENCE]].to_pylist()
        return torch.from_numpy(from_png(self._held[1][row % GROUP]))


# Reading


def entry(home: Path) -> Dataset:
    """The registry's entry for a finished folder of latents. Raises ConfigError if its manifest cannot be read."""
    path = home / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}); {AGAIN}") from None
    return Dataset(
        name=home.name, channels=manifest.channels, side=manifest.side, classes=len(manifest.class_names),
        class_names=manifest.class_names, digest=manifest.digest, bounded=False, flip=manifest.flip, decode=None,
        read=lambda folder: _read(home, manifest),
        to_pixels=lambda latents: _decoder(home, manifest.autoencoder_digest).decode(latents),
    )  # fmt: skip


def _read(home: Path, manifest: Manifest) -> dict[str, Images]:
    """Every split and the reference. The autoencoder is looked at too: its absence should not end a trained model."""
    _decoder(home, manifest.autoencoder_digest)
    splits: dict[str, Images] = {}
    for split in SPLITS:
        labels = torch.cat([_labels(file) for file in manifest.files(home, split)])
        splits[split] = Latents.of(_mapped(home, manifest, split), labels, manifest.digest)
    pictures = Pictures(manifest.files(home, REFERENCE), manifest)
    return splits | {REFERENCE: Images(pictures, splits["train"].labels[: len(pictures)], manifest.digest)}


@lru_cache(maxsize=1)
def _decoder(home: Path, digest: str) -> Autoencoder:
    """Raises ConfigError if it is not the one that the latents were made with."""
    folder = home / "autoencoder"
    found = autoencoder.load(str(folder))
    if found.digest != digest:
        raise ConfigError(
            f"{folder}: digest {found.digest[:12]}, but the latents beside it were made with {digest[:12]}; "
            "run `make latents` again, and it will be put back"
        )
    return found


def _labels(shard: Path) -> Tensor:
    return torch.tensor(_read_parquet(shard, ["label"])["label"].to_pylist(), dtype=torch.long)


def _mapped(home: Path, manifest: Manifest, split: str) -> Tensor:
    """The moments of a split (N, 2, 2, C, S, S) as a map of a file, which is made from the shards where it is missing.

    Raises ConfigError for a shard whose content is not what the manifest says.
    """
    path = home / "mapped" / f"{split}-{manifest.digest[:16]}.npy"
    shape = (manifest.counts[split], 2, 2, manifest.channels, manifest.side, manifest.side)
    if not path.exists():
        with whole(path) as temporary, open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
            for shard in manifest.files(home, split):
                file.write(_checked(shard, COLUMN[split], manifest.shards[shard.name]))
    try:
        array = np.load(path, mmap_mode="c")  # a private map: torch takes no other without a warning
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({first_line(error)}); delete it and run again") from None
    return torch.from_numpy(array)


def _checked(shard: Path, column: str, digest: str) -> bytes:
    """The bytes of a column, row after row, of a shard that holds what its digest says."""
    table = _read_parquet(shard, ["label", column])
    labels, values = table["label"].to_pylist(), table[column].to_pylist()
    if (found := content_digest(labels, values)) != digest:
        raise ConfigError(f"{shard}: content digest {found[:12]}, expected {digest[:12]}; {AGAIN}")
    return b"".join(values)


def _read_parquet(shard: Path, columns: list[str], group: int | None = None) -> pa.Table:
    """Columns of a shard, or of one of its row groups. Raises ConfigError if they cannot be read."""
    try:
        file = pq.ParquetFile(shard)
        return file.read(columns) if group is None else file.read_row_group(group, columns)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ConfigError(f"{shard}: cannot be read ({first_line(error)}); {AGAIN}") from None


# Writing


def path_of(home: Path, split: str, number: int) -> Path:
    return home / f"{split}-{number:05}.parquet"


def write(path: Path, split: str, pictures: list[Picture], values: list[bytes], recipe: dict[str, str]) -> None:
    """Write one shard, whole or not at all; `values` are moments or PNGs, one a picture."""
    labels = [picture.label for picture in pictures]
    width = -1 if split == REFERENCE else len(values[0])
    table = pa.table(
        {
            "file": [picture.file for picture in pictures],
            "label": pa.array(labels, pa.int64()),
            COLUMN[split]: pa.array(values, pa.binary(width)),
        }
    ).replace_schema_metadata({DIGEST_KEY: content_digest(labels, values), RECIPE_KEY: json.dumps(recipe)})
    with whole(path) as temporary:
        pq.write_table(
            table, temporary, row_group_size=GROUP, compression="zstd", use_dictionary=False, write_statistics=["label"]
        )


def content_digest(labels: list[int], values: list[bytes]) -> str:
    """sha256 of a shard's labels and moments or PNGs."""
    sha = hashlib.sha256(np.array(labels, "<i8"))
    for value in values:
        sha.update(len(value).to_bytes(8, "little"))
        sha.update(value)
    return sha.hexdigest()


def facts(shard: Path) -> tuple[dict[str, str], str] | None:
    """(recipe, digest) of a shard, or None if there is none. Raises ConfigError for one that cannot be read."""
    if not shard.exists():
        return None
    try:
        metadata = pq.read_metadata(shard).metadata or {}
        return json.loads(metadata[RECIPE_KEY]), metadata[DIGEST_KEY].decode()
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{shard}: cannot be read ({first_line(error)}); {AGAIN}") from None


def write_manifest(home: Path, **known) -> Manifest:
    """The last step: from here on the folder is a dataset. Its digest is made here.

    Runs that flipped and runs that did not are of other data: who changes `flip` is told by the digest.
    """
    content = known["shards"] if known["flip"] else known["shards"] | {"flip": False}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    manifest = Manifest(digest=digest, **known)
    with whole(home / MANIFEST) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest
