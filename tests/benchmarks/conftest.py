"""One table of everything that was measured, and what several benchmarks stand on.

OUT and DATA are the folders of `make`; BENCH_ROUNDS is the number of rounds of a measurement.
"""

import io
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measure import ROOT, Finished, python
from rich.console import Console
from rich.table import Table

from harness.data import registry as datasets
from harness.data.base import Images
from harness.data.files import parquet_path
from harness.tracking.provenance import provenance
from harness.trial import Place

FOLDERS = Place(ROOT / os.environ.get("DATA", "data"), ROOT / os.environ.get("OUT", "runs"))


@dataclass(frozen=True)
class Row:
    """One comparison. `ratio` above 1 means that ours is better; it and `theirs` are empty where there is no rival."""

    benchmark: str
    case: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    rounds: int
    threads: int
    note: str


ROWS = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture
def record(request) -> Callable[..., Row]:
    """`record(case, unit, ours, theirs)` adds a row under the name of the test; a unit ending in /s is a rate."""

    def add(
        case: str, unit: str, ours: float, theirs: float | None = None, *, rounds: int, threads: int, note: str = ""
    ) -> Row:
        ratio = None if theirs is None else ours / theirs if unit.endswith("/s") else theirs / ours
        name = request.node.originalname.removeprefix("test_").replace("_", " ")
        row = Row(name, case, ours, theirs, unit, ratio, rounds, threads, note)
        request.config.stash[ROWS].append(row)
        return row

    return add


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    path = FOLDERS.out / "bench" / f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', time.gmtime())}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())
    pq.write_table(table.replace_schema_metadata(provenance()), path)
    terminalreporter.write(_drawn(rows))
    terminalreporter.write_line(f"{len(rows)} rows in {path}")


def _schema() -> pa.Schema:
    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), float | None: pa.float64()}
    return pa.schema([(field.name, types[field.type]) for field in fields(Row)])


def _drawn(rows: list[Row]) -> str:
    """The table, its notes by number below it."""
    title = f"{platform.machine()}, load {os.getloadavg()[0]:.1f} at the end; a ratio above 1: ours is better"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for field in fields(Row):
        table.add_column(field.name, justify="left" if field.type is str else "right", overflow="fold")
    notes = {note: str(number) for number, note in enumerate(dict.fromkeys(r.note for r in rows if r.note), 1)}
    for row in rows:
        shown = asdict(row) | {"note": notes.get(row.note)}
        table.add_row(*(_word(value) for value in shown.values()))
    console = Console(file=io.StringIO(), width=150, highlight=False)
    console.print("\n", table, sep="")
    for note, number in notes.items():
        console.print(f"{number:>3}  {note}", markup=False, soft_wrap=True)
    return console.file.getvalue()


def _word(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@pytest.fixture(scope="session")
def folders() -> Place:
    """The project's own folders, with its data and whatever statistics it has cached."""
    if not parquet_path("fashion-mnist", FOLDERS.data).exists():
        pytest.skip(f"no Fashion-MNIST in {FOLDERS.data}: `make data` fetches it")
    FOLDERS.cache.mkdir(parents=True, exist_ok=True)
    return FOLDERS


@pytest.fixture(scope="session")
def images(folders) -> Images:
    return datasets.load("fashion-mnist", "train", folders.data)


@dataclass(frozen=True)
class Swept:
    """A sweep that has been run by its command, with its statistics of real images cached before."""

    command: tuple[str, ...]  # the arguments of python
    out: Path
    launch: Finished


@pytest.fixture(scope="session")
def swept(folders, tmp_path_factory) -> Swept:
    """Four models of `smoke` from two seeds, eight trials of seconds each."""
    out = tmp_path_factory.mktemp("swept")

    def command(settings: str) -> tuple[str, ...]:
        where = ("--out", str(out), "--data", str(folders.data))
        return ("-m", "sweeps", "run", "smoke", "--set", settings, *where)

    python(*command("model.size=1x64 model.patch=8"))  # seed 0: makes the store and the cache, and is no part of it
    launched = command("seed=1,2")
    return Swept(launched, out, python(*launched))
