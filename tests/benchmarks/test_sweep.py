"""What a sweep costs besides its training and evaluations: the way to the first step, each trial, the whole."""

import pandas as pd
import pytest
from measure import CPUS

from analysis import pull
from harness.tracking.store import Store, default_uri

pytestmark = pytest.mark.benchmark


def test_sweep_start(swept, record):
    """The first log of these trials comes after their first step, so its timestamp is the end of that step."""
    frame, logs = _pulled(f"sqlite:///{swept.out / 'mlflow.db'}", "smoke")
    first = logs.loc[logs["timestamp"].idxmin()]
    assert first["step"] == frame["train.batch"].iloc[0]
    record(
        "from launch to the end of the first training step", "s", first["timestamp"] / 1000 - swept.launch.started,
        rounds=1, threads=1, note="the command by itself, Ray and MLflow included, statistics of real images cached",
    )  # fmt: skip


def test_sweep_cost_of_a_trial(swept, record):
    """Worker seconds that went neither into training steps nor into evaluations, by trial."""
    frame, logs = _pulled(f"sqlite:///{swept.out / 'mlflow.db'}", "smoke")
    began = (logs["timestamp"] / 1000 - logs["value"]).min()  # a log's timestamp less the seconds trained until then
    trials = frame["run_id"].nunique()
    wall = frame["ended"].max().timestamp() - began
    record(
        "lost for each further trial", "s", (CPUS * wall - _useful(frame)) / trials, rounds=1, threads=1,
        note=f"{trials} trials on {CPUS} workers: workers x wall from the first training step to the last trial's end, "
        "less training and evaluations",
    )  # fmt: skip


def test_sweep_efficiency(folders, record):
    """Of a finished `sizes` in the output folder: how much of cores x wall were training steps and evaluations."""
    uri = default_uri(folders.out)
    if uri.startswith("sqlite:") and not (folders.out / "mlflow.db").exists():
        pytest.skip(f"no runs in {folders.out}")
    store = Store(uri, folders.out)
    if "sizes" not in store.experiments():
        pytest.skip(f"`make sweep SWEEP=sizes` has not been run in {folders.out}")
    frame, _ = _pulled(uri, "sizes")
    if not (frame["status"] == "FINISHED").all():
        pytest.skip(f"the sweep sizes in {folders.out} is not finished")
    wall = frame["ended"].max().timestamp() - _launched(store, "sizes")
    record(
        f"sizes, {frame['run_id'].nunique()} trials in {wall / 60:.0f} minutes", "share",
        _useful(frame) / (CPUS * wall), rounds=1, threads=1,
        note="training and evaluation seconds over cores x wall, from the launch (the start of the sweep's own run) to "
        "the last trial's end; a sweep that was stopped and resumed counts its pause",
    )  # fmt: skip


def _pulled(uri: str, sweep: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of a sweep's last launch, and every point of train_seconds: timestamp in ms, value in s, step in images."""
    from mlflow import MlflowClient

    frame, client = pull.pull(uri, sweep), MlflowClient(uri)
    points = (p for run in frame["run_id"].unique() for p in client.get_metric_history(run, "train_seconds"))
    return frame, pd.DataFrame([{"timestamp": p.timestamp, "value": p.value, "step": p.step} for p in points])


def _useful(frame: pd.DataFrame) -> float:
    """Seconds of training steps and evaluations, over all runs."""
    return frame.groupby("run_id")["train_seconds"].max().sum() + frame["eval_seconds"].sum()


def _launched(store: Store, sweep: str) -> float:
    """When the sweep's own run was made, in seconds since 1970."""
    found = store.client.search_runs([store.experiment(sweep)], "tags.kind = 'sweep'", max_results=1)
    return found[0].info.start_time / 1000
