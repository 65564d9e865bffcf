"""Which runs a tracking store holds: a SQLite file by its tables, in milliseconds, any other store by MLflow's client.

Importing that client takes longer than most commands should, and a command that only asks needs none of it.
"""

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from harness.record import TAG_KIND

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
PAGE = 1000  # runs of one answer of a tracking server


@dataclass(frozen=True)
class Entry:
    """A run as the store has it; `artifacts` is where its files lie, a path or an address."""

    run_id: str
    name: str
    status: str
    artifacts: str
    tags: dict[str, str]
    params: dict[str, str]

    def file(self, name: str) -> Path | None:
        """The run's file of that name if it lies on this machine; None if it lies elsewhere."""
        where = urlparse(self.artifacts)
        return Path(url2pathname(where.path)) / name if where.scheme in ("", "file") else None


def is_store(path: Path) -> bool:
    """Does the file hold MLflow's tables? Raises sqlite3.Error if it is no database."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = connection.execute("select name from sqlite_master where name in ('runs', 'tags', 'params')")
        return len(found.fetchall()) == 3


def read(path: Path, kind: str) -> list[Entry]:
    """The runs of a kind, oldest first; deleted ones, as all of a deleted experiment are, left out."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        runs = connection.execute(
            "select run_uuid, name, status, artifact_uri from runs join tags using (run_uuid)"
            " where lifecycle_stage = 'active' and key = ? and value = ? order by start_time, run_uuid",
            (TAG_KIND, kind),
        ).fetchall()
        entries = {run[0]: Entry(*run, tags={}, params={}) for run in runs}
        for table in ("tags", "params"):
            for run_id, key, value in connection.execute(f"select run_uuid, key, value from {table}"):
                if run_id in entries:
                    getattr(entries[run_id], table)[key] = value
    return list(entries.values())


def ask(client: "MlflowClient", kind: str) -> list[Entry]:
    """The same of any store, through MLflow's client."""
    experiments, token, entries = [e.experiment_id for e in client.search_experiments(max_results=10_000)], None, []
    while True:
        page = client.search_runs(
            experiments, f"tags.{TAG_KIND} = '{kind}'", max_results=PAGE, page_token=token,
            order_by=["attributes.start_time ASC"],
        )  # fmt: skip
        for run in page:
            info, data = run.info, run.data
            entries.append(Entry(info.run_id, info.run_name, info.status, info.artifact_uri, data.tags, data.params))
        token = page.token
        if not token:
            return entries
