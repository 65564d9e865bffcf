"""Writing to MLflow. A trial is handed a `Sink` and knows no more; the driver keeps the `Store` of runs.

MLflow is imported by the first call that writes: what a store holds is read by way of `ledger`.

The driver makes the database, the experiment and every run before any trial starts: two processes that first touch a
new SQLite store at once would break its migration.
"""

import json
import os
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import record
from harness.config import VERSION, Trial, flatten, make
from harness.errors import ConfigError, first_line
from harness.tracking import ledger
from harness.tracking.client import connect
from harness.tracking.provenance import provenance

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Run:
    """A trial's run as the store has it; status is MLflow's: SCHEDULED, RUNNING, FINISHED, FAILED or KILLED."""

    run_id: str
    status: str
    reason: str
    diverged: bool = False
    digest: str = ""  # of the data it was made for

    @property
    def over(self) -> bool:
        """Has it come to its result? One that diverged has: the same settings would diverge again."""
        return self.status == "FINISHED" or self.diverged


class Store:
    """The driver's side: experiments and runs. Raises ConfigError if it cannot be opened."""

    def __init__(self, uri: str, out: Path):
        self.uri, self.out, self.path = uri, out, None
        if uri.startswith(("http://", "https://")):
            _answer(uri)
        elif uri.startswith(ledger.SQLITE):
            self.path = _database(uri)
        if self.path is None or not ledger.is_store(self.path):
            _ = self.client

    @cached_property
    def client(self) -> "MlflowClient":
        try:
            client = connect(self.uri)
            client.search_experiments(max_results=1)  # the first call makes or migrates the tables
        except Exception as error:
            raise ConfigError(f"MLFLOW_TRACKING_URI: '{self.uri}' cannot be used: {first_line(error)}") from None
        return client

    def experiment(self, sweep: str) -> str:
        """The experiment of a sweep, made if need be. Raises ConfigError if it was deleted."""
        found = self.client.get_experiment_by_name(sweep)
        if found and found.lifecycle_stage == "deleted":
            raise ConfigError(
                f"experiment: '{sweep}' was deleted in MLflow; restore it (mlflow experiments restore -x "
                f"{found.experiment_id}), or choose another --out"
            )
        if found:
            return found.experiment_id
        local = self.uri.startswith("sqlite:")
        where = (self.out / "artifacts" / sweep).resolve().as_uri() if local else None
        return self.client.create_experiment(sweep, artifact_location=where)

    def experiments(self) -> dict[str, str]:
        """Sweep -> experiment id, of the experiments that hold something."""
        return {e.name: e.experiment_id for e in self.client.search_experiments() if e.name != "Default"}

    def parent(self, sweep: str, cells: list[str]) -> str:
        """The run that stands for the sweep and holds its report; told which trials belong to it now."""
        experiment = self.experiment(sweep)
        known = self._parent(sweep)
        if known is None:
            tags = {record.TAG_KIND: "sweep", record.TAG_SWEEP: sweep}
            run_id = self.client.create_run(experiment, run_name=f"{sweep} (report)", tags=tags).info.run_id
        else:
            run_id = known.run_id
        self.client.log_text(run_id, json.dumps(cells), record.CELLS)
        return run_id

    def _parent(self, sweep: str) -> ledger.Entry | None:
        """The newest run that stands for a sweep."""
        found = [entry for entry in self._entries("sweep") if entry.tags[record.TAG_SWEEP] == sweep]
        return found[-1] if found else None

    def cells(self, sweep: str) -> list[str]:
        """The trial ids of the sweep's last launch, in order; none if it was never launched."""
        return self._listed(sweep, record.CELLS)

    def reported(self, sweep: str) -> list[str]:
        """The trial ids that were over when the sweep's report was last written, in order."""
        return self._listed(sweep, record.REPORTED)

    def _listed(self, sweep: str, name: str) -> list[str]:
        parent = self._parent(sweep)
        if parent is None:
            return []
        here = parent.file(name)
        if here is not None:
            return json.loads(here.read_text()) if here.exists() else []
        if not any(item.path == name for item in self.client.list_artifacts(parent.run_id)):
            return []
        with tempfile.TemporaryDirectory() as folder:
            return json.loads(Path(self.client.download_artifacts(parent.run_id, name, folder)).read_text())

    def runs(self, wanted: Iterable[str]) -> dict[str, Run]:
        """The best run of each trial id that has one, over all experiments: finished before newest."""
        wanted, found = set(wanted), {}
        for run in self._entries("trial"):
            key = run.tags.get(record.TAG_ID)
            if key in wanted and not (key in found and found[key].status == "FINISHED"):
                diverged = run.status == "FAILED" and record.TAG_DIVERGED in run.tags
                reason, digest = run.tags.get(record.TAG_REASON, ""), run.params.get("data.digest", "")
                found[key] = Run(run.run_id, run.status, reason, diverged, digest)
        return found

    def trained(self, wanted: Iterable[str], digests: Container[str] | None = None) -> dict[str, str]:
        """Training id -> a finished run that has those weights. What a run trained follows from its params.

        digests: the contents of data that count; all, if None.
        """
        wanted, found = set(wanted), {}
        settings = flatten(make({"model.size": "S", "model.patch": 2})).keys()
        for run in self._entries("trial"):
            known = digests is None or run.params.get("data.digest") in digests
            made_by = run.params.get("version") == str(VERSION)
            if run.status == "FINISHED" and record.TAG_WEIGHTS not in run.tags and known and made_by:
                try:
                    trial = make({k: v for k, v in run.params.items() if k in settings})
                    key, same = trial.training_id, trial.outside.items() <= run.params.items()
                except ConfigError:
                    continue  # made by another version of the settings, or by outside code that is here no more
                if key in wanted and same:
                    found[key] = run.run_id
        return found

    def finished(self, wanted: str) -> str:
        """The id of the finished run that has this trial id, run id or name, or of the one whose weights it measured.

        Raises ConfigError if there is none, or if several trials share the name.
        """
        found: dict[str, str] = {}
        for run in self._entries("trial"):
            key = run.tags.get(record.TAG_ID, "")
            if run.status == "FINISHED" and wanted in (key, run.run_id, run.name):
                found[key] = run.tags.get(record.TAG_WEIGHTS, run.run_id)
        if len(set(found.values())) > 1:
            raise ConfigError(f"run: several are called '{wanted}'; name one by its id: {', '.join(sorted(found))}")
        if not found:
            raise ConfigError(f"run: no finished run is called '{wanted}'; make status SWEEP=... lists names and ids")
        return next(iter(found.values()))

    def _entries(self, kind: str) -> list[ledger.Entry]:
        """Every run of a kind in the store, oldest first."""
        return ledger.read(self.path, kind) if self.path else ledger.ask(self.client, kind)

    def create(self, trial: Trial, name: str, sweep: str, parent: str, params: dict[str, Any]) -> str:
        """A scheduled run for a trial, with its settings, versions and facts as params; returns its id."""
        from mlflow.entities import Param

        # Not mlflow.parentRunId: the UI folds a parent's runs away, and its charts then show none of them.
        tags = {
            record.TAG_KIND: "trial", record.TAG_ID: trial.id, record.TAG_SWEEP: sweep, record.TAG_PARENT: parent,
        }  # fmt: skip
        run_id = self.client.create_run(self.experiment(sweep), run_name=name, tags=tags).info.run_id
        params = flatten(trial) | trial.outside | {"version": VERSION} | params
        self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
        self.set(run_id, "SCHEDULED")
        return run_id

    def attach(self, run_id: str, page: Path, over: list[str]) -> None:
        """Keep the report on the run of its sweep, with the ids of the trials that were over before it was written."""
        self.client.log_artifact(run_id, str(page))
        self.client.log_text(run_id, json.dumps(over), record.REPORTED)
        self.set(run_id, "FINISHED")

    def start(self, run_id: str, weights_run: str | None = None) -> None:
        """A run is about to be worked on, by this code with these libraries, on weights of another run or its own."""
        from mlflow.entities import RunTag

        tags = provenance() | {record.TAG_REASON: ""} | ({record.TAG_WEIGHTS: weights_run} if weights_run else {})
        self.client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        self.set(run_id, "RUNNING")

    def set(self, run_id: str, status: str, reason: str = "", diverged: bool = False) -> None:
        """End states also set the end time; `reason` says why a run failed, for people."""
        if diverged:
            self.client.set_tag(run_id, record.TAG_DIVERGED, "yes")
        if reason:
            self.client.set_tag(run_id, record.TAG_REASON, reason[:5000])
        if status in ("FINISHED", "FAILED", "KILLED"):
            self.client.set_terminated(run_id, status)
        else:
            self.client.update_run(run_id, status=status)


def weights(uri: str, run_id: str, folder: Path) -> Path:
    """Fetch a run's EMA weights; returns the safetensors file in the folder, with its config.json beside it."""
    return Path(connect(uri).download_artifacts(run_id, record.WEIGHTS, str(folder))) / "ema.safetensors"


def default_uri(out: Path) -> str:
    """MLFLOW_TRACKING_URI, or a SQLite file in the output folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').resolve()}"


def _database(uri: str) -> Path:
    """Make the file and switch it to write-ahead logging, which lets several trials write without starving."""
    path = Path(uri.removeprefix(ledger.SQLITE).partition("?")[0])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute("pragma journal_mode=wal")
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"MLFLOW_TRACKING_URI: '{uri}' cannot be opened: {error}") from None
    return path


def _answer(uri: str) -> None:
    """Raises ConfigError unless a server answers: MLflow's own client would retry for minutes."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError:
        pass  # it is there; a proxy may not pass /health on
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"MLFLOW_TRACKING_URI: no server answers at '{uri}' ({reason}); allowed: a reachable "
                          "http(s) address, or unset for a local file") from None  # fmt: skip
