"""What a feature extractor is: a network of torch-fidelity's registry, and the file of its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SPATIAL = "spatial"  # the layer that sFID reads, of an extractor that has one: features (N, F) that keep their places


@dataclass(frozen=True)
class Extractor:
    """register: makes it known to torch-fidelity and returns its name there. weights: data folder -> file or None."""

    register: Callable[[], str]
    weights: Callable[[Path], Path | None] = lambda folder: None
