"""A small real MLflow store, with what goes wrong in one: a resumed run, a failed one, a deleted one, an infinity."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import RECIPE, gflops

from analysis import pull
from analysis.frames import OBJECTIVE
from harness.config import flatten, grid
from harness.record import CELLS, METRICS, TAG_DIVERGED, TAG_ID, TAG_KIND, TAG_REASON, TAG_SWEEP

STUDY = Path(__file__).parents[2] / "docs" / "study" / "runs.parquet"


class Store:
    """Writes what the harness would write."""

    def __init__(self, folder):
        from mlflow import MlflowClient

        self.uri, self.folder = f"sqlite:///{folder}/mlflow.db", folder
        self.client = MlflowClient(self.uri)

    def experiment(self, name):
        return self.client.create_experiment(name, artifact_location=(self.folder / "artifacts" / name).as_uri())

    def trial(self, experiment, sweep, trial, status="FINISHED", failure=None):
        tags = {TAG_KIND: "trial", TAG_ID: trial.id, TAG_SWEEP: sweep, "git_commit": "0123abc"}
        tags |= {TAG_REASON: failure} if failure else {}
        run = self.client.create_run(experiment, tags=tags, run_name=trial.name).info.run_id
        for name, value in (flatten(trial) | {"model.size": trial.model.size, "model.gflops": gflops(trial)}).items():
            self.client.log_param(run, name, value)
        if status:
            self.client.set_terminated(run, status)
        return run

    def parent(self, experiment, sweep, cells):
        run = self.client.create_run(experiment, tags={TAG_KIND: "sweep", TAG_SWEEP: sweep}).info.run_id
        self.client.log_dict(run, cells, CELLS)
        return run


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Sweep `sizes` of four cells; one of them was made by the sweep `other`."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.trials = trials = grid(RECIPE, {"model.size": ("2x96x6", "3x128x8"), "model.patch": (8, 4)})
    sizes, other = store.experiment("sizes"), store.experiment("other")
    log = store.client.log_metric
    store.resumed = store.trial(sizes, "sizes", trials[0], status=None)
    for stamp, step, loss in ((1000, 32, 0.9), (1001, 64, 0.8), (2000, 64, 0.7), (2001, 96, 0.6)):
        log(store.resumed, "loss", loss, timestamp=stamp, step=step)
    log(store.resumed, "fid", 12.5, timestamp=2001, step=96)
    log(store.resumed, "not_in_the_contract", 1.0, timestamp=2001, step=96)
    store.client.set_terminated(store.resumed, "FINISHED")
    store.failed = store.trial(sizes, "sizes", trials[1], "FAILED", "loss is nan at step 3")
    log(store.failed, "loss", float("inf"), step=32)
    store.silent = store.trial(sizes, "sizes", trials[2], "FAILED")
    store.client.set_tag(store.silent, TAG_DIVERGED, "yes")
    store.shared = store.trial(other, "other", trials[3])
    log(store.shared, "loss", 0.5, step=32)
    again = store.trial(sizes, "sizes", trials[3], "FAILED")  # newer, but not finished
    deleted = store.trial(sizes, "sizes", trials[3])
    store.client.delete_run(deleted)
    store.again, store.deleted = again, deleted
    cells = [trials[index].id for index in (3, 0, 1, 2)]
    store.parent(sizes, "sizes", cells)
    store.parent(other, "other", [trials[3].id])
    return store


@pytest.fixture(scope="module")
def frame(store):
    return pull.pull(store.uri, "sizes")


def test_the_cells_of_the_last_launch_in_its_order(store, frame):
    assert frame["run_id"].drop_duplicates().tolist() == [store.shared, store.resumed, store.failed, store.silent]
    assert set(frame["sweep"]) == {"sizes", "other"}


def test_a_step_logged_twice_keeps_the_newest(store, frame):
    run = frame[frame["run_id"] == store.resumed]
    assert run["images"].tolist() == [32, 64, 96]
    assert run["loss"].tolist() == [0.9, 0.7, 0.6]
    assert run["fid"].isna().tolist() == [True, True, False]


def test_failures_are_rows_without_numbers(store, frame):
    failed, silent = (frame[frame["run_id"] == run] for run in (store.failed, store.silent))
    assert failed["failure"].tolist() == ["loss is nan at step 3"] and failed["status"].tolist() == ["FAILED"]
    assert failed["loss"].isna().all()  # MLflow keeps an infinity as 1.8e308
    assert silent["status"].tolist() == ["DIVERGED"]
    assert len(silent) == 1 and silent[list(METRICS)].isna().all(axis=None) and silent["images"].isna().all()


def test_columns_are_the_contracts_and_typed(store, frame):
    assert dict(frame.dtypes.astype(str)) == pull.schema()
    assert "not_in_the_contract" not in frame
    row, trial = frame[frame["run_id"] == store.resumed].iloc[-1], store.trials[0]
    assert (row["trial_id"], row["name"], row["model.size"]) == (trial.id, trial.name, "2x96x6")
    assert (row["model.depth"], row["train.lr"], row["data.flip"]) == (2, 1e-3, "own")
    assert np.isnan(row["model.params_m"]) and pd.isna(row["evaluate.split"])  # never logged: absent, not 0
    assert json.loads(row["tags"])["git_commit"] == "0123abc" and row["started"] <= row["ended"]


def test_runs_of_earlier_versions_get_what_holds_for_them():
    """The study in `docs`, made before there were objectives, versions and real images' FID."""
    before = pd.read_parquet(STUDY)
    frame = pull.conform(before)
    assert dict(frame.dtypes.astype(str)) == pull.schema() and len(frame) == len(before)
    told = frame[["version", *OBJECTIVE, "evaluate.manifold", "data.flip"]].drop_duplicates()
    assert told.to_numpy().tolist() == [[1, "ddpm", "own", 0.0, 1.0, 0, "on"]]
    assert frame[["fid_floor", "diffusion_loss", "evaluate.calls"]].isna().all(axis=None)
    fixed = pull.conform(before.assign(**{"model.learn_sigma": False, "data.flip": False}))
    assert set(fixed["diffusion.objective"]) == {"noise"} and set(fixed["data.flip"]) == {"off"}


def test_a_run_keeps_the_version_that_it_told_and_one_that_told_nothing_has_none():
    rows = [{"run_id": "a", "model.depth": "2", "version": "7", "diffusion.objective": "flow"}, {"run_id": "b"}]
    one, none = (row for _, row in pull.conform(pd.DataFrame(rows)).iterrows())
    assert (one["version"], one["diffusion.objective"], one["diffusion.density"]) == (7, "flow", "own")
    assert pd.isna(none["version"]) and pd.isna(none["diffusion.objective"])


def test_a_study_has_the_runs_of_every_sweep_once(store, frame):
    study = pull.study(store.uri)
    runs = study.drop_duplicates("run_id").set_index("run_id")["sweeps"]
    assert runs.to_dict() == {
        store.shared: "sizes other", store.resumed: "sizes", store.failed: "sizes", store.silent: "sizes",
    }  # fmt: skip
    assert pull.held_by(study) == ["sizes", "other"]
    for sweep in ("sizes", "other"):
        one = pull.pull(store.uri, sweep)
        assert set(one["sweeps"]) == {sweep}
        part = pull.held(study, sweep).reset_index(drop=True).assign(sweeps=sweep)
        pd.testing.assert_frame_equal(pull.conform(part), one)


def test_a_store_without_a_launch_has_no_study(tmp_path):
    empty = Store(tmp_path)
    empty.experiment("sizes")
    with pytest.raises(pull.NoSuchSweep, match=r"no sweep in .* was launched yet"):
        pull.study(empty.uri)


def test_every_run_of_the_store(store):
    everything = pull.pull(store.uri)
    assert set(everything["run_id"]) == {store.shared, store.resumed, store.failed, store.silent, store.again}


def test_parquet_gives_the_same_frame_back(store, frame, tmp_path):
    written = pull.pull(store.uri, "sizes", tmp_path / "deep" / "runs.parquet")
    read = pd.read_parquet(tmp_path / "deep" / "runs.parquet")
    pd.testing.assert_frame_equal(read, written)
    pd.testing.assert_frame_equal(pull.conform(read), frame)


def test_where_the_database_cannot_be_read_the_client_gives_the_same(store, frame, monkeypatch):
    monkeypatch.setattr(pull, "_store", lambda client: None)
    pd.testing.assert_frame_equal(pull.pull(store.uri, "sizes"), frame)


def test_the_last_sample_sheet_of_each_run(store, frame, tmp_path):
    for images in (32, 96, 64):
        sheet = tmp_path / f"{images:09d}.png"
        sheet.write_bytes(b"sheet %d" % images)
        store.client.log_artifact(store.resumed, sheet, "samples")
    found = pull.samples(store.uri, frame, tmp_path / "samples")
    assert list(found) == [store.resumed]
    assert found[store.resumed].read_bytes() == b"sheet 96"

    store.client.log_artifact(store.failed, sheet, "samples")
    first = frame[frame["run_id"] == store.resumed]
    seeds = pd.concat([first.assign(run_id=store.failed, seed=1), first])  # a cell is shown by its first seed
    assert list(pull.samples(store.uri, seeds, tmp_path / "seeds")) == [store.resumed]


def test_unknown_sweeps_and_stores_are_named(store, tmp_path):
    with pytest.raises(pull.NoSuchSweep, match=r"no sweep 'size' .*; there are: other, sizes"):
        pull.pull(store.uri, "size")
    with pytest.raises(pull.NoSuchSweep, match="no tracking store"):
        pull.pull(f"sqlite:///{tmp_path}/none.db", "sizes")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(pull.Unreachable, match=r"http://127.0.0.1:9 cannot be reached"):
        pull.pull("http://127.0.0.1:9", "sizes")
