"""Encode a folder of images into a dataset of latents, once.

    python -m harness.data.latents photos --autoencoder stabilityai/sd-vae-ft-mse --name my-photos

Then `data.dataset=my-photos` trains on it. Killed half-way, the same command goes on after the last finished shard.
What a folder of images is, `pictures` says; what lies on disk in the end, `shards`.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from harness import hardware
from harness.data import autoencoder, pictures, shards
from harness.data.autoencoder import BATCH, Autoencoder
from harness.data.base import NAME, NAMES, SPLITS
from harness.data.pictures import Picture, Source
from harness.data.registry import DATASETS
from harness.data.shards import REFERENCE, Manifest, path_of
from harness.errors import ConfigError
from harness.progress import clock, meter

ROWS = 2_000  # images of a shard: 65 MB at 256x256 pixels, and the most that is lost when it is killed


@dataclass(frozen=True)
class Job:
    """One shard to encode, and how many of its first images are kept as pictures too."""

    split: str
    number: int
    pictures: list[Picture]
    kept: int

    def files(self, home: Path) -> list[Path]:
        """What it makes, in this order."""
        reference = [path_of(home, REFERENCE, self.number)] if self.kept else []
        return [*reference, path_of(home, self.split, self.number)]


def encode(
    source: Source, coder: Autoencoder, home: Path, side: int, reference: int, flip: bool, console: Console
) -> Manifest:
    """Make the dataset `home` of a source's images, cropped to `side` pixels, or what is missing of it.

    reference: training images to keep as pictures; flip: whether training mirrors half of the images, which changes no
    shard. Raises ConfigError if `home` was begun with anything else.
    """
    recipe = {
        "source": source.digest, "autoencoder": coder.digest, "side": str(side), "reference": str(reference),
        "rows": str(ROWS),
    }  # fmt: skip
    jobs = list(plan(source, reference))
    todo = [job for job in jobs if not _is_made(job, home, recipe)]
    total = sum(len(job.pictures) for job in jobs)
    done = total - sum(len(job.pictures) for job in todo)
    _keep(coder, home / "autoencoder")
    with meter("encoding", console) as tell:
        for job in todo:
            for count in _encode(job, source.root, coder, side, home, recipe):
                done += count
                tell(done, total)
    channels, cells, _ = coder.shape(side)
    manifest = shards.write_manifest(
        home, channels=channels, side=cells, image_side=side, class_names=source.class_names, rows=ROWS,
        counts={s: len(source.splits[s]) for s in SPLITS} | {REFERENCE: sum(job.kept for job in jobs)},
        scale=coder.scale, shift=coder.shift, autoencoder=coder.name, autoencoder_digest=coder.digest,
        source_digest=source.digest, flip=flip,
        shards={path.name: shards.facts(path)[1] for job in jobs for path in job.files(home)},
    )  # fmt: skip
    for path in (*home.glob(".*.tmp"), *home.glob("mapped/*")):  # of killed runs, and of another content
        if manifest.digest[:16] not in path.name:
            path.unlink()
    return manifest


def plan(source: Source, reference: int) -> Iterator[Job]:
    """The shards of each split, in order."""
    for split in SPLITS:
        images = source.splits[split]
        for number, start in enumerate(range(0, len(images), ROWS)):
            part = images[start : start + ROWS]
            kept = min(len(part), max(0, reference - start)) if split == "train" else 0
            yield Job(split, number, part, kept)


def _encode(job: Job, root: Path, coder: Autoencoder, side: int, home: Path, recipe: dict[str, str]) -> Iterator[int]:
    """Make the files of one shard, yielding how many images each batch had."""
    device = hardware.device()

    def read(numbered: tuple[int, Picture]) -> tuple[np.ndarray, bytes]:
        number, picture = numbered
        image = pictures.read(root / picture.file, side)
        return image, pictures.to_png(image) if number < job.kept else b""

    moments, pngs = [], []
    ready = pictures.ahead(read, enumerate(job.pictures))
    while batch := list(islice(ready, BATCH[device])):
        images = torch.from_numpy(np.stack([image for image, _ in batch])).to(device)
        found = coder.encode(images).cpu()
        if not found.isfinite().all():
            raise ConfigError(f"autoencoder: '{coder.name}' makes latents of {root} that are not finite; try another")
        moments += [one.numpy().tobytes() for one in found]
        pngs += [png for _, png in batch]
        yield len(batch)
    *reference, latents = job.files(home)
    for path in reference:
        shards.write(path, REFERENCE, job.pictures[: job.kept], pngs[: job.kept], recipe)
    shards.write(latents, job.split, job.pictures, moments, recipe)


def _is_made(job: Job, home: Path, recipe: dict[str, str]) -> bool:
    """Raises ConfigError for a shard that was made of anything else than what is given now."""
    found = {path: shards.facts(path) for path in job.files(home)}
    for path, made in found.items():
        for name, now in recipe.items():
            if made and (was := made[0].get(name, "unknown")) != now:
                raise ConfigError(
                    f"{path}: made with another {name} ({was[:12]}, now {now[:12]}); "
                    f"give the same as then, choose another name, or delete {home}"
                )
    return None not in found.values()


def _keep(coder: Autoencoder, folder: Path) -> None:
    """Put a copy of the autoencoder into the dataset, unless it is there."""
    try:
        same = folder.is_dir() and autoencoder.load(str(folder)).digest == coder.digest
    except ConfigError:  # half-written
        same = False
    if not same:
        coder.save(folder)


def _home(folder: Path, name: str, shape: tuple[int, int, int]) -> Path:
    """Where the dataset will lie. Raises ConfigError for a name that will not do or that means other data."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"name: '{name}' cannot be a dataset's; allowed: {NAMES}")
    known = DATASETS.get(name)
    if known and (known.bounded or known.shape != shape):
        theirs, ours = ("x".join(map(str, of)) for of in (known.shape, shape))
        raise ConfigError(f"name: '{name}' is a dataset of {theirs} already, these latents are {ours}; choose another")
    return folder / name


def main(
    root: Annotated[Path, typer.Argument(help="images, as ROOT/CLASS/* or ROOT/train/CLASS/* and ROOT/val/CLASS/*")],
    coder: Annotated[str, typer.Option("--autoencoder", help="diffusers' AutoencoderKL: a folder, or a hub name")],
    name: Annotated[str, typer.Option("--name", help="of the dataset to make")],
    side: Annotated[int, typer.Option("--side", help="pixels that images are resized and cropped to")] = 256,
    folder: Annotated[Path, typer.Option("--folder", help="of the datasets")] = Path("data"),
    held_out: Annotated[float, typer.Option(help="share of the images, where ROOT has no splits", min=0, max=1)] = 0.05,
    seed: Annotated[int, typer.Option(help="of the images' order, and so of which are held out")] = 0,
    reference: Annotated[int, typer.Option(help="training images to keep as pictures, for FID", min=4)] = 50_000,
    flip: Annotated[
        bool, typer.Option("--flip/--no-flip", help="is a mirror image as likely? training then flips half of them")
    ] = True,
) -> None:
    """Encode a folder of images into latents, once; the same command goes on where it was stopped."""
    torch.set_float32_matmul_precision("high")
    console, started = Console(stderr=True), time.monotonic()
    try:
        loaded = autoencoder.load(coder)
        home = _home(folder, name, loaded.shape(side))
        with meter("checking images", console) as tell:
            source = pictures.scan(root, held_out, seed, home / "checked.parquet", tell)
        manifest = encode(source, loaded, home, side, reference, flip, console)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command goes on from here") from None
    sizes = ", ".join(f"{manifest.counts[split]:,} {split}" for split in SPLITS)
    ignored = f" ({source.ignored:,} other files ignored)" if source.ignored else ""
    print(
        f"{name}: {sizes} images of {len(manifest.class_names):,} classes{ignored} as {manifest.channels}x"
        f"{manifest.side}x{manifest.side} latents in {home}, after {clock(time.monotonic() - started)}"
    )


if __name__ == "__main__":
    typer.run(main)
