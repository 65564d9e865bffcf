"""A store of many runs, made quickly: each run by the real code, the evaluations of all but the first by copying rows.

What lies in the database is what logging them one by one would have left there, but for values and times.
"""

import sqlite3
from pathlib import Path

from PIL import Image

from harness import record
from harness.config import Trial, base, grid
from harness.cost import cost
from harness.tracking.sinks import Mlflow
from harness.tracking.store import Store
from harness.trial import facts

SWEEP = "crowd"


def cells(count: int) -> list[Trial]:
    """Four sizes at patch 4, and as many seeds as it takes."""
    axes = {"model.size": ("2x80", "3x112", "3x160", "4x208"), "seed": range(-(-count // 4))}
    return grid(base("cpu"), axes)[:count]


def fill(out: Path, runs: int, evaluations: int) -> str:
    """A store in `out` with so many finished runs of the sweep `SWEEP`, each with a sheet of samples; its address."""
    uri = f"sqlite:///{out / 'mlflow.db'}"
    store, trials = Store(uri, out), cells(runs)
    parent = store.parent(SWEEP, [trial.id for trial in trials])
    sheet = out / "0000032768.png"
    Image.new("RGB", (256, 320)).save(sheet)
    made = {}
    for trial in trials:
        run_id = store.create(trial, trial.name, SWEEP, parent, facts(trial, "0" * 64, "cpu"))
        sink = Mlflow(uri, run_id)
        if not made:
            store.start(run_id)
            for at in range(1, evaluations + 1):
                sink.log(at * 512, _values(at / evaluations))
        sink.file(sheet, record.SAMPLES)
        store.set(run_id, "FINISHED")
        made[run_id] = cost(trial).gflops
    _copy(out / "mlflow.db", made)
    store.set(parent, "FINISHED")
    return uri


def _values(share: float) -> dict[str, float]:
    """Every metric, falling over the run."""
    return dict.fromkeys(record.METRICS, 100 / (1 + share)) | {"train_gflops": 1000 * share}


def _copy(database: Path, gflops: dict[str, float]) -> None:
    """Give the points of the first run to the others, smaller for larger models."""
    first, *others = gflops
    scales = [((gflops[first] / gflops[run]) ** 0.2, run, first) for run in others]
    with sqlite3.connect(database) as connection:
        for table in ("metrics", "latest_metrics"):
            columns = [row[1] for row in connection.execute(f"pragma table_info({table})")]
            taken = ", ".join({"run_uuid": "?2", "value": "value * ?1"}.get(name, name) for name in columns)
            copied = f"insert into {table} ({', '.join(columns)}) select {taken} from {table} where run_uuid = ?3"
            connection.executemany(copied, scales)
