"""Training checkpoints, keyed by a trial's id: written whole or not at all, deleted once the trial is finished."""

import os
from pathlib import Path

import torch


def save(path: Path, saved: dict) -> None:
    """Write tensors and plain values so that a reader only ever sees a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(saved, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, device: str) -> dict | None:
    """What `save` wrote, or None if there is nothing."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None
