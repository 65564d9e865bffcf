"""Every study of the paper, one sweep after another in the order that shares most.

`sizes` comes first, because most others hold some of its cells, and the last two measure its models again.
"""

from importlib import import_module

from harness.config import Trial, unique

SWEEPS = (
    "sizes", "patch", "conditioning", "seeds", "schedules", "learning_rate", "depth_width", "backbones",
    "guidance", "sampling",
)  # fmt: skip


def trials(scale: str) -> list[Trial]:
    """The cells of all of them."""
    return unique(trial for name in SWEEPS for trial in import_module(f"sweeps.{name}").trials(scale))
