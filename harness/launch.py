"""Ray Tune as the scheduler of a list of trials. The only file that imports Ray.

Tune is given the cells that are still to do and nothing else: which they are, their runs and their checkpoints are
ours (content hash, MLflow, `checkpoint.py`), so that a changed grid, a crash or another machine only ever means
running the same command again.
"""

import contextlib
import fcntl
import io
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from harness import hardware, tracking
from harness.config import ConfigError, Trial, flatten, make
from harness.cost import work
from harness.tracking import Store
from harness.train import Diverged
from harness.trial import Place, bench, facts, run
from harness.view import Row, View

# glibc gives freed memory back to the system and faults it in again at every step: told to keep it, a step at these
# sizes is several percent faster. Read when a process starts, so it is set for the workers before Ray starts them.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
OBJECT_STORE = 128 << 20  # bytes; trials pass a few numbers through it, never tensors
PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """Trial names by what became of them in this launch."""

    parent: str  # run id of the sweep's own run
    finished: list[str]
    failed: dict[str, str]  # name -> reason


@contextlib.contextmanager
def only_driver(out: Path) -> Iterator[None]:
    """Hold the output folder for one sweep at a time. Raises ConfigError if it is held or cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open(out / ".lock", "w")  # noqa: SIM115 (held open as long as the lock)
    except OSError as error:
        raise ConfigError(f"--out: '{out}' cannot be written ({error.strerror}); allowed: a writable folder") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"--out: '{out}' is in use by another sweep; wait for it, or choose another") from None
        yield


def launch(trials: list[Trial], sweep: str, store: Store, place: Place, console: Console) -> Outcome:
    """Run every trial that is not finished, and say what became of each. A failed trial leaves the others running.

    Raises ConfigError, before any training, if data or extractor cannot be had.
    """
    known = store.runs(t.id for t in trials)
    todo = [t for t in trials if t.id not in known or known[t.id].status != "FINISHED"]
    for t in {(t.data, t.evaluate.extractor): t for t in todo}.values():
        _ = bench(t, place).settings  # data and weights are at hand, before anything is started
    parent = store.parent(sweep, [t.id for t in trials])
    if not todo:
        return Outcome(parent, [], {})
    todo.sort(key=work, reverse=True)  # the longest first, so that none is left alone at the end
    rows = {t.id: Row(t.name, t.train.steps * t.train.batch, work(t)) for t in todo}
    with cluster() as device, View(sweep, rows, len(trials) - len(todo), console) as view:
        for settings in {(t.data, t.evaluate): t for t in todo}.values():
            bench(settings, place).prepare(hardware.device())
        runs = {}
        for t in todo:
            digest = bench(t, place).real.digest
            params = facts(t, digest, device)
            runs[t.id] = known[t.id].run_id if t.id in known else store.create(t, sweep, parent, params)
        _tune(todo, runs, store, place, device, view)
    failed = {}
    for t in todo:
        row = rows[t.id]
        if row.state != "done":
            failed[row.name] = row.reason or "stopped before it was finished"
            store.set(runs[t.id], "FAILED" if row.state == "failed" else "KILLED", failed[row.name])
    return Outcome(parent, [t.name for t in todo if rows[t.id].state == "done"], failed)


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Ray, for the time of a sweep: the cluster at RAY_ADDRESS, else this machine. Gives the device of its trials."""
    os.environ.update({k: v for k, v in (QUIET | MALLOC).items() if k not in os.environ})
    import ray

    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"num_cpus": cpus(), "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except ConnectionError as error:
        raise ConfigError(f"RAY_ADDRESS: '{address}': {error}; allowed: a cluster that answers, or unset") from None
    try:
        yield "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    finally:
        ray.shutdown()


def _tune(todo: list[Trial], runs: dict[str, str], store: Store, place: Place, device: str, view: View) -> None:
    from ray import tune

    class Events(tune.Callback):
        """Tune's events, passed on to the view and the store."""

        def __reduce__(self):
            return tune.Callback, ()  # Tune pickles its callbacks for its own restore, which is not ours

        def on_trial_start(self, iteration, trials, trial, **info):
            store.start(runs[trial.config["cell"]["id"]])
            view.begin(trial.config["cell"]["id"])

        def on_trial_result(self, iteration, trials, trial, result, **info):
            key = trial.config["cell"]["id"]
            if "failure" in result:
                view.end(key, result["failure"])
            elif "finished" in result:
                store.set(runs[key], "FINISHED")
                view.end(key)
            else:
                view.update(key, {k: v for k, v in result.items() if isinstance(v, int | float)})

        def on_trial_error(self, iteration, trials, trial, **info):
            view.end(trial.config["cell"]["id"], "its process died (out of memory?)")

    cells = [
        {
            "id": t.id,
            "fields": flatten(t),
            "run_id": runs[t.id],
            "uri": store.uri,
            "place": {k: str(v.resolve()) for k, v in asdict(place).items()},
            "device": device,
        }
        for t in todo
    ]
    share = {"CPU": 1} | ({"GPU": 1} if device == "cuda" else {})
    with tempfile.TemporaryDirectory(prefix="tune-") as scratch, contextlib.redirect_stdout(io.StringIO()):
        tune.Tuner(
            tune.with_resources(_work, tune.PlacementGroupFactory([share])),
            param_space={"cell": tune.grid_search(cells)},
            tune_config=tune.TuneConfig(
                reuse_actors=True,  # a warm worker: torch and MLflow are imported once, not once a trial
                trial_dirname_creator=lambda trial: trial.config["cell"]["id"],
            ),
            run_config=tune.RunConfig(name="sweep", storage_path=scratch, verbose=0, callbacks=[Events()]),
        ).fit()


def _work(config: dict) -> None:
    """A trial in its worker: whatever goes wrong ends this trial as failed, with the reason, and no other."""
    import time

    import torch
    from ray import tune

    cell = config["cell"]
    trial, place = make(cell["fields"]), Place(**{k: Path(v) for k, v in cell["place"].items()})
    sink = tracking.Mlflow(cell["uri"], cell["run_id"])
    told = 0.0

    def progress(metrics: dict) -> None:
        nonlocal told
        if "fid" in metrics or time.monotonic() - told > PROGRESS_SECONDS:  # a report waits for the driver
            told = time.monotonic()
            tune.report(metrics)

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    try:
        run(trial, sink, place, cell["device"], progress)
    except Diverged as error:
        tune.report({"failure": str(error)})
    except Exception as error:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "traceback.txt"
            path.write_text(traceback.format_exc())
            sink.file(path, "failure")
        tune.report({"failure": f"{type(error).__name__}: {error}"})
    else:
        tune.report({"finished": True})


def cpus() -> int:
    """CPUs this process may use, at one trial each."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
