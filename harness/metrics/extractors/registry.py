"""Feature extractors for FID and its relatives, by name: the door of this room.

`lite0` needs no download (see `lite0.py`). `inception` is torch-fidelity's port of the network that the paper's numbers
use. Another one is a file here and a line of `EXTRACTORS`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from harness.metrics.extractors.base import Extractor
from harness.naming import choose


def _of(file: str, function: str) -> Callable[..., Any]:
    """A function of a file of this room, which is imported when it is called: torch-fidelity takes seconds."""
    return lambda *given: getattr(import_module(f"{__package__}.{file}"), function)(*given)


EXTRACTORS = {
    "lite0": Extractor(_of("lite0", "register")),
    "inception": Extractor(_of("inception", "register"), _of("inception", "weights")),
}


def lookup(name: str) -> Extractor:
    """Raises ConfigError for an unknown extractor."""
    return choose("evaluate.extractor", name, EXTRACTORS)
