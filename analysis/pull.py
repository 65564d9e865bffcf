"""MLflow -> one row per (run, images seen), every setting and metric a typed column named as in `harness.record`."""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.frames import settings
from harness.record import CELLS, METRICS, PARAMS, SAMPLES, TAG_DIVERGED, TAG_ID, TAG_KIND, TAG_REASON, TAG_SWEEP

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

BULK_RUNS = 100  # runs of one request for metric histories: the server's own limit
BULK_POINTS = 25_000  # points of one answer, likewise
THREADS = 8  # requests in flight to a tracking server
POINT = ["run_id", "key", "step", "timestamp", "value"]

_DTYPES = {int: "Int64", float: "float64", str: "str", bool: "boolean"}
# What holds for runs that were made before a field was there.
_BEFORE = {
    "version": 1, "diffusion.objective": "ddpm", "diffusion.density": "own", "diffusion.density_mean": 0.0,
    "diffusion.density_std": 1.0, "evaluate.manifold": 0,
}  # fmt: skip
_FLIPS = {"True": "on", "False": "off"}  # of version 1
_FACTS = {
    "run_id": "str",
    "trial_id": "str",
    "name": "str",  # DiT-B/4 adaLN-Zero seed 0
    "sweep": "str",  # the sweep that made the run: cells are shared between sweeps
    "sweeps": "str",  # every sweep that was read whose last launch named the cell, with spaces between
    "status": "str",  # MLflow's: FINISHED, FAILED, RUNNING, SCHEDULED, KILLED; and DIVERGED, which it calls FAILED
    "failure": "str",  # the step and the reason
    "started": "datetime64[ms, UTC]",
    "ended": "datetime64[ms, UTC]",
    "tags": "str",  # the run's other tags (commit, versions) as JSON
    "images": "Int64",  # images seen: the MLflow step
}


class NoSuchSweep(ValueError):
    """The tracking store has no sweep of that name, or no tracking store is there."""


class Unreachable(ValueError):
    """No tracking server answers."""


def schema() -> dict[str, str]:
    """Column -> pandas dtype of `runs.parquet`."""
    params = settings() | {name: quantity.type for name, quantity in PARAMS.items()}
    return (
        _FACTS
        | {name: _DTYPES[kind] for name, kind in params.items()}
        | {name: _DTYPES[quantity.type] for name, quantity in METRICS.items()}
    )


def pull(tracking_uri: str, sweep: str | None = None, path: Path | None = None) -> pd.DataFrame:
    """The runs of a sweep's last launch, in its order; every trial run of the store where `sweep` is None.

    A run that never logged a metric has one row, with no images and no metrics. A step that was logged twice, by a
    run that was resumed, keeps what was logged last. Writes the frame to `path` if one is given.
    Raises NoSuchSweep, Unreachable.
    """
    client = _client(tracking_uri)
    experiments = client.search_experiments(max_results=10_000)
    runs = _all_trials(client, experiments) if sweep is None else _launched(client, experiments, sweep)
    frame = _frame(client, runs, {sweep: [run.data.tags[TAG_ID] for run in runs]} if sweep else {})
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(path, index=False)
    return frame


def study(tracking_uri: str) -> pd.DataFrame:
    """The runs of every sweep's last launch, each once, sweeps in the order of their first launch.

    The column `sweeps` says which hold a run; `held` picks a sweep's. Raises NoSuchSweep if no sweep was launched,
    and Unreachable.
    """
    client = _client(tracking_uri)
    experiments = client.search_experiments(max_results=10_000)
    parents: dict[str, list[Run]] = {}
    for run in _search(client, experiments, f"tags.{TAG_KIND} = 'sweep'"):
        parents.setdefault(run.data.tags[TAG_SWEEP], []).append(run)
    order = sorted(parents, key=lambda sweep: min(run.info.start_time or 0 for run in parents[sweep]))
    cells = {sweep: _cells(client, parents[sweep]) for sweep in order}
    if not any(cells.values()):
        raise NoSuchSweep(f"no sweep in {_uri(client)} was launched yet")
    found = _best(_all_trials(client, experiments))
    wanted = dict.fromkeys(key for keys in cells.values() for key in keys if key in found)
    return _frame(client, [found[key] for key in wanted], cells)


def held(frame: pd.DataFrame, sweep: str) -> pd.DataFrame:
    """The rows of the runs that a sweep holds."""
    return frame[frame["sweeps"].fillna("").str.split().map(lambda names: sweep in names)]


def held_by(frame: pd.DataFrame) -> list[str]:
    """The sweeps that hold runs of the frame, in its order."""
    return list(dict.fromkeys(name for names in frame["sweeps"].dropna().unique() for name in names.split()))


def conform(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with exactly the columns of `schema()`: unknown ones dropped, missing ones empty.

    Runs of earlier versions get what holds for them of the fields that were added since.
    """
    columns = {}
    for name, dtype in schema().items():
        values = frame[name] if name in frame else pd.Series([None] * len(frame), index=frame.index, dtype="object")
        columns[name] = _typed(values, dtype)
    known = columns["model.depth"].notna()  # else a run that never said what it is
    for name, value in _BEFORE.items():
        columns[name] = columns[name].mask(known & columns[name].isna(), value)
    if "model.learn_sigma" in frame:  # until there were objectives
        fixed = frame["model.learn_sigma"].astype("str").eq("False")
        columns["diffusion.objective"] = columns["diffusion.objective"].mask(fixed, "noise")
    columns["data.flip"] = columns["data.flip"].replace(_FLIPS)
    return pd.DataFrame(columns).reset_index(drop=True)


def samples(tracking_uri: str, frame: pd.DataFrame, folder: Path) -> dict[str, Path]:
    """Copy runs' last PNG sample sheets to `folder/<run_id>.png`: of each cell that of its first finished seed.

    A cell is all settings but the seed, and the version of the code. Runs without a sheet are left out.
    """
    client = _client(tracking_uri)
    folder.mkdir(parents=True, exist_ok=True)

    def fetch(run_id: str) -> Path | None:
        sheets = [item.path for item in client.list_artifacts(run_id, SAMPLES) if item.path.endswith(".png")]
        if not sheets:
            return None
        last = max(sheets, key=lambda path: (int("0" + "".join(filter(str.isdigit, Path(path).stem))), path))
        target = folder / f"{run_id}.png"
        target.write_bytes(Path(client.download_artifacts(run_id, last)).read_bytes())
        return target

    runs = frame.drop_duplicates("run_id").assign(open=lambda rows: rows["status"] != "FINISHED")
    cell = ["version", *(name for name in settings() if name != "seed")]
    run_ids = runs.sort_values(["open", "seed"], kind="stable").drop_duplicates(cell)["run_id"].tolist()
    with ThreadPoolExecutor(THREADS) as pool:
        return {run_id: path for run_id, path in zip(run_ids, pool.map(fetch, run_ids), strict=True) if path}


def _client(tracking_uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    if tracking_uri.startswith("http"):
        _reach(tracking_uri)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each of many small files
    local = tracking_uri.removeprefix("sqlite:///")
    if local != tracking_uri and not Path(local).exists():
        raise NoSuchSweep(f"no tracking store at {tracking_uri}: run a sweep first, or set MLFLOW_TRACKING_URI")
    return MlflowClient(tracking_uri)


def _reach(tracking_uri: str) -> None:
    """MLflow itself tries for minutes before it says that nobody is there."""
    try:
        urllib.request.urlopen(tracking_uri, timeout=20).close()
    except urllib.error.HTTPError:
        pass  # somebody is: a log-in page, perhaps
    except OSError as error:
        raise Unreachable(f"tracking server {tracking_uri} cannot be reached: {error}") from None


def _all_trials(client: "MlflowClient", experiments: "list[Experiment]") -> "list[Run]":
    return _search(client, experiments, f"tags.{TAG_KIND} = 'trial'")


def _launched(client: "MlflowClient", experiments: "list[Experiment]", sweep: str) -> "list[Run]":
    """The runs of the cells that the sweep's last launch named, wherever they were made."""
    own = [experiment for experiment in experiments if experiment.name == sweep]
    parents = _search(client, own, f"tags.{TAG_KIND} = 'sweep' and tags.{TAG_SWEEP} = '{sweep}'") if own else []
    if not parents:
        names = sorted(experiment.name for experiment in experiments if experiment.name != "Default")
        raise NoSuchSweep(f"no sweep '{sweep}' in {_uri(client)}; there are: {', '.join(names) or 'none'}")

    wanted = _cells(client, parents)
    found = _best(_all_trials(client, own))

    def elsewhere(trial_id: str) -> "list[Run]":
        return _search(client, experiments, f"tags.{TAG_KIND} = 'trial' and tags.{TAG_ID} = '{trial_id}'")

    # One search for the sweep's own runs, then one for each cell that another sweep may have finished.
    open_cells = [key for key in wanted if key not in found or found[key].info.status != "FINISHED"]
    with _threads(client) as pool:
        found |= _best(run for runs in pool.map(elsewhere, open_cells) for run in runs)
    return [found[key] for key in wanted if key in found]


def _best(runs: "Iterable[Run]") -> "dict[str, Run]":
    """The run of each trial id: finished before newest."""
    best: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (run.info.status == "FINISHED", run.info.start_time or 0)):
        best[run.data.tags[TAG_ID]] = run
    return best


def _cells(client: "MlflowClient", parents: "list[Run]") -> list[str]:
    for parent in sorted(parents, key=lambda run: -(run.info.start_time or 0)):
        if any(item.path == CELLS for item in client.list_artifacts(parent.info.run_id)):
            path = client.download_artifacts(parent.info.run_id, CELLS)
            return json.loads(Path(path).read_text(encoding="utf-8"))
    return []


def _search(client: "MlflowClient", experiments: "list[Experiment]", query: str) -> "list[Run]":
    """Every active run that matches, newest first, page by page."""
    ids, found, token = [experiment.experiment_id for experiment in experiments], [], None
    while ids:
        page = client.search_runs(ids, query, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    return found


def _histories(client: "MlflowClient", run_ids: list[str]) -> pd.DataFrame:
    """Columns run_id, key, step, timestamp, value: every point that was ever logged of every known metric."""
    blocks = [run_ids[start : start + BULK_RUNS] for start in range(0, len(run_ids), BULK_RUNS)]
    engine = getattr(_store(client), "engine", None)
    if engine is not None:
        return pd.concat([_selected(engine, block) for block in blocks or [[]]], ignore_index=True)
    jobs = [(block, key) for block in blocks for key in METRICS]
    with _threads(client) as pool:
        points = [point for part in pool.map(lambda job: _history(client, *job), jobs) for point in part]
    return pd.DataFrame(points, columns=POINT)


def _store(client: "MlflowClient") -> Any:
    """What the client reads from: MLflow promises nothing about it, so None if that has gone."""
    return getattr(getattr(client, "_tracking_client", None), "store", None)


def _selected(engine: Any, run_ids: list[str]) -> pd.DataFrame:
    """The points of some runs from a database: MLflow makes an object of each, which takes ten times as long."""
    from mlflow.store.tracking.dbmodels.models import SqlMetric as Metric
    from sqlalchemy import select

    columns = (Metric.run_uuid, Metric.key, Metric.step, Metric.timestamp, Metric.value, Metric.is_nan)
    query = select(*columns).where(Metric.run_uuid.in_(run_ids), Metric.key.in_(METRICS))
    with engine.connect() as connection:
        # From the driver: SQLAlchemy too makes an object of each, which takes most of the time.
        found = pd.DataFrame(connection.execute(query).cursor.fetchall(), columns=[*POINT, "is_nan"])
    return found.assign(value=found["value"].mask(found["is_nan"].astype(bool))).drop(columns="is_nan")


def _history(client: "MlflowClient", run_ids: list[str], key: str) -> Iterable[tuple[str, str, int, int, float]]:
    """One metric of up to `BULK_RUNS` runs from a server.

    MLflow's client reads one run and metric at a time. Its server reads many at once, but promises nothing about it:
    where that has gone, the client's own way is left.
    """
    if hasattr(_store(client), "get_host_creds"):
        points = _requested(_store(client), run_ids, key)
        if points is not None:
            return points
    each = ((run_id, point) for run_id in run_ids for point in client.get_metric_history(run_id, key))
    return [(run_id, key, point.step, point.timestamp, point.value) for run_id, point in each]


def _requested(store: Any, run_ids: list[str], key: str) -> list[tuple[str, str, int, int, float]] | None:
    """The same from a tracking server, halving the request while its answer is cut short; None if it cannot."""
    from mlflow.utils.rest_utils import http_request

    answer = http_request(
        host_creds=store.get_host_creds(),
        endpoint="/ajax-api/2.0/mlflow/metrics/get-history-bulk",
        method="GET",
        params={"run_id": run_ids, "metric_key": key, "max_results": BULK_POINTS},
    )
    if answer.status_code != 200:
        return None
    points = [(m["run_id"], key, int(m["step"]), int(m["timestamp"]), m["value"]) for m in answer.json()["metrics"]]
    if len(points) < BULK_POINTS:
        return points
    if len(run_ids) == 1:
        return None
    middle = len(run_ids) // 2
    halves = [_requested(store, half, key) for half in (run_ids[:middle], run_ids[middle:])]
    return None if None in halves else halves[0] + halves[1]


def _frame(client: "MlflowClient", runs: "list[Run]", cells: dict[str, list[str]]) -> pd.DataFrame:
    """The runs' rows with their `sweeps`; cells: the trial ids of each sweep."""
    holders: dict[str, list[str]] = {}
    for sweep, keys in cells.items():
        for key in dict.fromkeys(keys):
            holders.setdefault(key, []).append(sweep)
    rows = _rows(runs, _histories(client, [run.info.run_id for run in runs]))
    sweeps = [" ".join(holders.get(key, [])) or None for key in rows.get("trial_id", [])]
    return conform(rows.assign(sweeps=sweeps))


def _rows(runs: "list[Run]", points: pd.DataFrame) -> pd.DataFrame:
    """One row per (run, step), runs in the order given, steps ascending."""
    points["value"] = pd.to_numeric(points["value"], errors="coerce").astype(float)
    # MLflow stores an infinite value as the largest double: no measurement either way.
    points["value"] = points["value"].where(points["value"].abs() < sys.float_info.max)
    points = points.sort_values("timestamp", kind="stable").drop_duplicates(["run_id", "key", "step"], keep="last")
    wide = points.pivot(index=["run_id", "step"], columns="key", values="value").reset_index()
    facts = pd.DataFrame([_facts(run) for run in runs], columns=None if runs else ["run_id"])
    facts["_order"] = range(len(facts))
    rows = facts.merge(wide.rename(columns={"step": "images"}), on="run_id", how="left")
    return rows.sort_values(["_order", "images"], kind="stable").drop(columns="_order")


def _facts(run: "Run") -> dict[str, Any]:
    tags = run.data.tags
    own = {name: value for name, value in tags.items() if not name.startswith("mlflow.")}
    return {
        **run.data.params,
        "run_id": run.info.run_id,
        "trial_id": tags.get(TAG_ID),
        "name": run.info.run_name,
        "sweep": tags.get(TAG_SWEEP),
        "status": "DIVERGED" if run.info.status == "FAILED" and TAG_DIVERGED in tags else run.info.status,
        "failure": tags.get(TAG_REASON),
        "started": run.info.start_time,
        "ended": run.info.end_time,
        "tags": json.dumps(own, sort_keys=True),
    }


def _typed(values: pd.Series, dtype: str) -> pd.Series:
    if dtype.startswith("datetime"):
        return pd.to_datetime(values, unit="ms", utc=True).astype(dtype)
    if dtype == "boolean":
        words = {"true": True, "1": True, "false": False, "0": False}
        return values.map(lambda value: words.get(str(value).lower())).astype(dtype)
    if dtype in ("Int64", "float64"):
        numbers = pd.to_numeric(values, errors="coerce").astype("float64" if dtype == "float64" else None)
        return numbers.astype(dtype)
    return values.astype("object").where(values.notna(), None).astype(dtype)


def _threads(client: "MlflowClient") -> ThreadPoolExecutor:
    """A database is read on one thread, a server on several."""
    return ThreadPoolExecutor(THREADS if _uri(client).startswith("http") else 1)


def _uri(client: "MlflowClient") -> str:
    return client._tracking_client.tracking_uri
