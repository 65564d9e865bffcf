"""Writing to MLflow: a fresh SQLite store, its runs and their states, and addresses that cannot be used."""

import json
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from harness import record
from harness.config import VERSION, flatten, make
from harness.errors import ConfigError
from harness.tracking import store as tracking
from harness.tracking.provenance import LIBRARIES, provenance
from harness.tracking.sinks import Memory, Mlflow, Null
from harness.tracking.store import Run, Store, default_uri

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Migrating a new database takes seconds, so the tests of this file share one, each in a sweep of its own."""
    out = tmp_path_factory.mktemp("store") / "runs"
    return Store(f"sqlite:///{out / 'mlflow.db'}", out)


@pytest.fixture
def sweep(request):
    return request.node.name


def trial(**fields):
    return make({"model.size": "S", "model.patch": 4} | {name.replace("__", "."): v for name, v in fields.items()})


def begun(store, sweep, cell, params=()):
    return store.create(cell, cell.name, sweep, store.parent(sweep, [cell.id]), dict(params))


# The store


def test_a_new_store_is_a_file_that_many_may_write(store):
    path = store.uri.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    again = Store(store.uri, store.out)
    assert [e.name for e in again.client.search_experiments()][-1] == "Default"


def test_a_deleted_experiment_is_one_line(store, sweep):
    store.client.delete_experiment(store.experiment(sweep))
    with pytest.raises(ConfigError, match=f"^experiment: '{sweep}' was deleted in MLflow; restore it"):
        store.experiment(sweep)


def test_the_options_of_an_address_are_not_part_of_its_file(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/mlflow.db?timeout=60", tmp_path)
    assert not any("?" in file.name for file in tmp_path.iterdir())
    assert store.runs([]) == {} and store.cells("none") == []


def test_an_experiment_is_made_once_with_its_files_in_the_output_folder(store, sweep):
    first = store.experiment(sweep)
    assert store.experiment(sweep) == first
    where = store.client.get_experiment(first).artifact_location
    assert where == (store.out / "artifacts" / sweep).resolve().as_uri()


def test_a_sweep_has_one_parent_that_knows_its_cells(store, sweep, tmp_path):
    assert store.cells(sweep) == []
    first = store.parent(sweep, ["a", "b"])
    assert store.parent(sweep, ["b", "c"]) == first
    assert store.cells(sweep) == ["b", "c"]
    run = store.client.get_run(first)
    assert run.data.tags[record.TAG_KIND] == "sweep" and run.data.tags[record.TAG_SWEEP] == sweep
    file = store.client.download_artifacts(first, record.CELLS, str(tmp_path))
    assert json.loads(Path(file).read_text()) == ["b", "c"]


def test_a_page_is_kept_on_the_parent(store, sweep, tmp_path):
    parent, page = store.parent(sweep, []), tmp_path / "report.html"
    page.write_text("<p>")
    assert store.reported(sweep) == []
    store.attach(parent, page, ["a"])
    assert store.reported(sweep) == ["a"]
    assert "report.html" in [file.path for file in store.client.list_artifacts(parent)]
    assert store.client.get_run(parent).info.status == "FINISHED"


def test_a_run_is_named_as_people_say_it_and_holds_every_setting(store, sweep):
    cell = trial(model__size="B", seed=3)
    run = store.client.get_run(begun(store, sweep, cell, {"model.gflops": 5.5}))
    assert run.info.run_name == "DiT-B/4 adaLN-Zero seed 3" and run.info.status == "SCHEDULED"
    settings = {name: str(value) for name, value in flatten(cell).items()}
    assert run.data.params == settings | {"model.gflops": "5.5", "version": str(VERSION)}
    assert run.data.tags[record.TAG_ID] == cell.id and run.data.tags[record.TAG_KIND] == "trial"
    assert run.data.tags[record.TAG_PARENT] == store.parent(sweep, [cell.id])


def test_a_run_s_states_and_the_reason_of_its_failure(store, sweep):
    cell = trial(seed=101)
    run_id = begun(store, sweep, cell)

    def state():
        run = store.runs([cell.id])[cell.id]
        assert run.run_id == run_id
        return run.status, run.reason

    assert state() == ("SCHEDULED", "")
    store.start(run_id)
    assert state() == ("RUNNING", "")
    assert store.client.get_run(run_id).data.tags["version.torch"]
    store.set(run_id, "FAILED", "loss became nan at step 7")
    assert state() == ("FAILED", "loss became nan at step 7")
    assert store.client.get_run(run_id).info.end_time
    store.start(run_id)  # tried again: the old reason is gone
    assert state() == ("RUNNING", "")
    store.set(run_id, "FINISHED")
    assert state() == ("FINISHED", "")


def test_a_finished_run_is_preferred_then_the_newest(store, sweep):
    cell, other = trial(seed=102), trial(seed=103)
    first, second, third = (begun(store, sweep, cell) for _ in range(3))
    store.set(first, "FAILED", "no")
    assert store.runs([cell.id])[cell.id].run_id == third
    store.set(second, "FINISHED")
    assert store.runs([cell.id, "unknown"]) == {cell.id: Run(second, "FINISHED", "")}
    assert store.runs([other.id]) == {}


def test_a_run_is_found_in_whichever_sweep_made_it(store, sweep):
    cell = trial(seed=104)
    run_id = begun(store, f"{sweep} elsewhere", cell)
    store.parent(sweep, [cell.id])
    assert store.runs([cell.id])[cell.id].run_id == run_id


def test_weights_are_found_by_what_was_trained_and_not_where_they_were_only_measured(store, sweep, tmp_path):
    cell, other = trial(train__lr=0.03), trial(train__lr=0.04)
    asked = trial(train__lr=0.03, evaluate__steps=9, evaluate__points=1)
    run_id = begun(store, sweep, cell)
    assert store.trained([asked.training_id]) == {}  # not finished
    file = tmp_path / "ema.safetensors"
    file.write_bytes(b"weights")
    Mlflow(store.uri, run_id).file(file, record.WEIGHTS)
    store.set(run_id, "FINISHED")
    measured = begun(store, sweep, asked)
    store.start(measured, run_id)
    store.set(measured, "FINISHED")
    assert store.client.get_run(measured).data.tags[record.TAG_WEIGHTS] == run_id
    assert store.trained([asked.training_id, other.training_id]) == {asked.training_id: run_id}
    (tmp_path / "here").mkdir()
    assert tracking.weights(store.uri, run_id, tmp_path / "here").read_bytes() == b"weights"


def test_one_that_diverged_is_over_and_one_that_failed_is_not(store, sweep):
    lost, broken = (begun(store, sweep, trial(seed=seed)) for seed in (106, 107))
    store.set(lost, "FAILED", "loss became inf at step 9", diverged=True)
    store.set(broken, "FAILED", "out of disk")
    runs = store.runs(trial(seed=seed).id for seed in (106, 107))
    assert runs[trial(seed=106).id] == Run(lost, "FAILED", "loss became inf at step 9", True)
    assert [runs[trial(seed=seed).id].over for seed in (106, 107)] == [True, False]


def test_a_deleted_run_is_none(store, sweep):
    cell = trial(seed=105)
    store.client.delete_run(begun(store, sweep, cell))
    assert store.runs([cell.id]) == {}


# Sinks


def test_metrics_are_logged_over_images_seen(store, sweep):
    run_id = begun(store, sweep, trial(seed=106))
    sink = Mlflow(store.uri, run_id)
    sink.log(64, {"loss": 0.5, "mse": 0.4})
    sink.log(128, {"loss": 0.25})
    history = store.client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(64, 0.5), (128, 0.25)]
    assert store.client.get_run(run_id).data.metrics == {"loss": 0.25, "mse": 0.4}


def test_a_name_outside_the_contract_is_refused_whole(store, sweep):
    run_id = begun(store, sweep, trial(seed=107))
    with pytest.raises(KeyError, match=r"not in record\.METRICS: accuracy, fd"):
        Mlflow(store.uri, run_id).log(1, {"loss": 1.0, "fd": 2.0, "accuracy": 3.0})
    assert store.client.get_run(run_id).data.metrics == {}


def test_every_metric_of_the_contract_can_be_logged(store, sweep):
    run_id = begun(store, sweep, trial(seed=108))
    Mlflow(store.uri, run_id).log(1, dict.fromkeys(record.METRICS, 1.0))
    assert store.client.get_run(run_id).data.metrics.keys() == record.METRICS.keys()


def test_files_arrive_in_their_folder(store, sweep, tmp_path):
    run_id = begun(store, sweep, trial(seed=109))
    file = tmp_path / "a.txt"
    file.write_text("hello")
    Mlflow(store.uri, run_id).file(file, record.SAMPLES)
    assert [f.path for f in store.client.list_artifacts(run_id, record.SAMPLES)] == ["samples/a.txt"]
    assert len(list((store.out / "artifacts" / sweep).rglob("a.txt"))) == 1


def test_the_other_sinks_keep_all_or_nothing(tmp_path):
    file, memory = tmp_path / "a.txt", Memory()
    file.write_text("hello")
    for sink in (Null(), memory):
        sink.log(1, {"loss": 2.0})
        sink.file(file, "there")
    assert memory.metrics == [(1, {"loss": 2.0})] and memory.files == [("there/a.txt", b"hello")]
    assert Memory().metrics == []


# What ran


def test_provenance_names_commit_and_versions():
    tags = provenance()
    assert {f"version.{name}" for name in LIBRARIES} | {"python", "machine"} <= tags.keys()
    assert all(tags.values())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert tags.get("git_commit", "").rstrip("+") == head.stdout.strip()  # absent where there is no checkout


def test_the_store_is_a_file_in_the_output_folder_unless_one_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert default_uri(tmp_path) == "http://there:5000"


# Stores that cannot be


def blocked(tmp_path):
    """An address below a file, which nobody can write, not even root."""
    (tmp_path / "file").write_text("")
    return f"sqlite:///{tmp_path}/file/mlflow.db"


def garbage(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    "address",
    [lambda _: "http://127.0.0.1:9", lambda _: "http://", lambda _: "gopher://there", blocked, garbage],
    ids=["nobody answers", "no host", "unknown kind", "unwritable", "not a database"],
)
def test_an_unusable_store_is_one_line_and_at_once(tmp_path, address):
    uri, start = address(tmp_path), time.monotonic()
    with pytest.raises(ConfigError) as caught:
        Store(uri, tmp_path)
    message = str(caught.value)
    assert message.startswith("MLFLOW_TRACKING_URI: ") and uri in message and "\n" not in message
    assert time.monotonic() - start < 8


def test_weights_of_another_version_of_the_code_are_not_used(store, sweep, monkeypatch):
    cell = trial(train__lr=0.07)
    store.set(begun(store, sweep, cell), "FINISHED")
    assert store.trained([cell.training_id])
    monkeypatch.setattr(tracking, "VERSION", VERSION + 1)
    assert store.trained([cell.training_id]) == {}
