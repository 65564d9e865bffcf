"""Where the results of a trial go: a `Sink`, which is all that a trial knows."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness import record
from harness.tracking.client import connect


class Sink(Protocol):
    """Where a trial's results go. Metric names are those of `record.METRICS`."""

    def log(self, images: int, metrics: dict[str, float]) -> None: ...

    def file(self, path: Path, folder: str) -> None: ...


class Null:
    """Keeps nothing."""

    def log(self, images: int, metrics: dict[str, float]) -> None: ...

    def file(self, path: Path, folder: str) -> None: ...


@dataclass
class Memory:
    """Keeps everything in lists, for tests and notebooks."""

    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)

    def log(self, images: int, metrics: dict[str, float]) -> None:
        self.metrics.append((images, metrics))

    def file(self, path: Path, folder: str) -> None:
        self.files.append((f"{folder}/{path.name}", path.read_bytes()))


class Mlflow:
    """Logs to one MLflow run, one transaction a call."""

    def __init__(self, uri: str, run_id: str):
        self.client, self.run_id = connect(uri), run_id

    def log(self, images: int, metrics: dict[str, float]) -> None:
        from mlflow.entities import Metric

        unknown = metrics.keys() - record.METRICS.keys()
        if unknown:
            raise KeyError(f"not in record.METRICS: {', '.join(sorted(unknown))}")
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(k, float(v), now, images) for k, v in metrics.items()])

    def file(self, path: Path, folder: str) -> None:
        self.client.log_artifact(self.run_id, str(path), folder)
