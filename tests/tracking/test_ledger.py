"""What a store holds is read from its tables, and is what MLflow's own client says."""

import sqlite3
import subprocess
import sys

import pytest

from harness import record
from harness.config import make
from harness.tracking import ledger
from harness.tracking.store import Store

CELLS = [make({"model.size": "S", "model.patch": 4, "seed": seed}) for seed in range(5)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two sweeps of three runs and two, in as many states, one run of them deleted, and a sweep that is deleted."""
    out = tmp_path_factory.mktemp("ledger")
    store = Store(f"sqlite:///{out / 'mlflow.db'}", out)
    states = {"a": ("FINISHED", "FAILED", "FINISHED"), "b b": ("RUNNING", "SCHEDULED"), "gone": ("FINISHED",)}
    cells = iter([*CELLS, CELLS[0]])
    for sweep, group in states.items():
        parent = store.parent(sweep, ["x", sweep])
        for state in group:
            cell = next(cells)
            run = store.create(cell, cell.name, sweep, parent, {"model.gflops": 1.5})
            store.set(run, state, "why" if state == "FAILED" else "")
    store.client.delete_run(store.runs([CELLS[2].id])[CELLS[2].id].run_id)
    store.client.delete_experiment(store.experiment("gone"))
    return store


@pytest.mark.parametrize(("kind", "count"), [("trial", 4), ("sweep", 2), ("other", 0)])
def test_the_tables_say_what_the_client_says(store, kind, count):
    entries = ledger.read(store.path, kind)
    assert entries == ledger.ask(store.client, kind) and len(entries) == count
    assert all(entry.tags[record.TAG_KIND] == kind for entry in entries)


def test_a_server_s_answer_in_pages_is_whole(store, monkeypatch):
    monkeypatch.setattr(ledger, "PAGE", 3)
    assert ledger.ask(store.client, "trial") == ledger.read(store.path, "trial")


def test_a_run_s_file_is_found_where_it_lies_on_this_machine(store):
    entry = ledger.read(store.path, "sweep")[1]
    assert entry.file(record.CELLS).read_text() == '["x", "b b"]'  # the blank is quoted in its address
    assert ledger.Entry("1", "a", "FINISHED", "s3://far/away", {}, {}).file(record.CELLS) is None
    assert store.cells("b b") == ["x", "b b"] and store.cells("gone") == []


def test_a_file_without_the_tables_is_no_store(tmp_path):
    assert not ledger.is_store(tmp_path / "new.db")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("create table runs (run_uuid)")
    assert not ledger.is_store(tmp_path / "other.db")


def test_asking_does_not_import_mlflow(store):
    code = f"""
import sys
from pathlib import Path
from harness.tracking.store import Store
store = Store({store.uri!r}, Path({str(store.out)!r}))
print(len(store.runs({[cell.id for cell in CELLS]})), store.cells("a"), len(store.trained([])), "mlflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "4 ['x', 'a'] 0 False\n"
