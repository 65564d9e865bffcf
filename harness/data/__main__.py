"""Prepare a dataset: `python -m harness.data fashion-mnist --folder data`, or your own as `package.module:NAME`."""

from pathlib import Path

import typer

from harness.data import registry as datasets
from harness.data.base import SPLITS
from harness.data.files import parquet_path
from harness.errors import ConfigError


def main(dataset: str, folder: Path = Path("data")) -> None:
    """Prepare a dataset: fetch, check and decode it unless that is done, and say in one line what lies there."""
    try:
        counts = {split: len(datasets.load(dataset, split, folder)) for split in SPLITS}
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    known = datasets.lookup(dataset)
    where = folder / known.name if known.read else parquet_path(known.name, folder)
    print(f"{dataset}: {sizes} images in {where}")


if __name__ == "__main__":
    typer.run(main)
