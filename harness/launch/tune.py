"""Ray Tune as the scheduler of a list of trials.

Tune is given the cells that are still to do and nothing else: which they are, their runs and their checkpoints are
ours (content hash, MLflow, `checkpoint.py`), so that a changed grid, a crash or another machine only ever means
running the same command again.
"""

import contextlib
import io
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Container, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from harness import hardware
from harness.config import Trial, flatten, make, names
from harness.cost import work
from harness.errors import ConfigError, first_line
from harness.launch.view import Row, View
from harness.tracking import store as tracking
from harness.tracking.sinks import Mlflow
from harness.tracking.store import Run, Store
from harness.training.loop import Diverged
from harness.trial import Place, bench, facts, measure, run

PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """Trial names by what became of them in this launch."""

    parent: str  # run id of the sweep's own run
    finished: list[str]
    failed: dict[str, str]  # name -> reason
    diverged: dict[str, str] = field(default_factory=dict)  # likewise, and of earlier launches: not tried again


def launch(
    trials: list[Trial], sweep: str, store: Store, place: Place, device_of: Callable[[], str], console: Console
) -> Outcome:
    """Run every trial that is not over, and say what became of each. A failed trial leaves the others running.

    `device_of` waits for the cluster and says what trials compute on. Raises ConfigError, before any training, if data
    or extractor cannot be had, or the data are not those that a trial's run was made for; KeyboardInterrupt if the user
    ends it.
    """
    known = store.runs(t.id for t in trials)
    digests = {name: bench(t, place).real.digest for name, t in {t.data.dataset: t for t in trials}.items()}
    for t in (t for t in trials if t.id in known):
        _same_data(t, known[t.id], digests[t.data.dataset])
    todo, called = [t for t in trials if t.id not in known or not known[t.id].over], names(trials)
    diverged = {called[t.id]: known[t.id].reason for t in trials if t.id in known and known[t.id].diverged}
    for t in {(t.data, t.evaluate.extractor): t for t in todo}.values():
        bench(t, place).check()  # data and weights are at hand, before anything is started
    parent = store.parent(sweep, [t.id for t in trials])
    if not todo:
        return Outcome(parent, [], {}, diverged)
    weights = store.trained((t.training_id for t in todo), digests.values())
    trains = trainers(todo, weights)
    todo.sort(key=lambda t: _work(t, trains), reverse=True)  # the longest first: none is left alone at the end
    rows = {t.id: Row(called[t.id], t.train.steps * t.train.batch, _work(t, trains)) for t in todo}
    with View(sweep, rows, len(trials) - len(todo), console) as view:
        for settings in {(t.data, t.evaluate): t for t in todo}.values():
            bench(settings, place).prepare(hardware.device())
        runs, device = {}, device_of()
        for t in todo:
            params = facts(t, digests[t.data.dataset], device)
            runs[t.id] = known[t.id].run_id if t.id in known else store.create(t, called[t.id], sweep, parent, params)
        ready = [t for t in todo if t in trains or t.training_id in weights]
        rest, failed, waiting = [t for t in todo if t not in ready], {}, set()
        try:
            _tune(ready, {t.id: None if t in trains else weights[t.training_id] for t in ready}, runs, store, place,
                  device, view)  # fmt: skip
            weights |= {t.training_id: runs[t.id] for t in trains if rows[t.id].state == "done"}
            ready = [t for t in rest if t.training_id in weights]
            waiting = {t.id for t in rest if t not in ready}
            _tune(ready, {t.id: weights[t.training_id] for t in ready}, runs, store, place, device, view)
        finally:  # the user may have ended it
            lost = {t.training_id: rows[t.id].reason for t in trains if rows[t.id].state == "diverged"}
            for t in todo:
                row = rows[t.id]
                if row.state in ("diverged", "failed"):  # the store knows
                    (diverged if row.state == "diverged" else failed)[row.name] = row.reason
                elif row.state != "done" and t.training_id in lost:  # what it was to measure diverged
                    diverged[row.name] = lost[t.training_id]
                    _keep(store, runs[t.id], "FAILED", diverged[row.name], diverged=True)
                elif row.state != "done":
                    why = "its weights were not trained" if t.id in waiting else "stopped before it was finished"
                    failed[row.name] = why
                    _keep(store, runs[t.id], "KILLED", why)
    return Outcome(parent, [rows[t.id].name for t in todo if rows[t.id].state == "done"], failed, diverged)


def _same_data(trial: Trial, run: Run, digest: str) -> None:
    """Raises ConfigError if the run was made for other data of the same name."""
    if run.digest and run.digest != digest:
        name = trial.data.dataset
        raise ConfigError(
            f"data.dataset: '{name}' now has the content {digest[:12]}, and {trial.name} (run {run.run_id}) was made "
            f"with {run.digest[:12]}; put the old data back, give the new ones another name, or choose another --out"
        )


def _keep(store: Store, run_id: str, status: str, reason: str = "", diverged: bool = False) -> str:
    """Set a run's state. Returns what is wrong if the store will not, which must not end the other trials."""
    try:
        store.set(run_id, status, reason, diverged)
    except Exception as error:
        return f"MLflow did not take its state: {first_line(error)}"
    return ""


def trainers(todo: list[Trial], weights: Container[str]) -> set[Trial]:
    """The trials that must train; the others measure weights that another run has or will have.

    One that is measured along the way trains its own. One that is measured at its end alone takes the weights of any
    with the same training; where there are none, the cheapest of its kind trains them.
    """
    trains = {t for t in todo if t.evaluate.points > 1}
    have = {t.training_id for t in trains}
    for t in sorted((t for t in todo if t.evaluate.points == 1), key=work):
        if t.training_id not in weights and t.training_id not in have:
            trains.add(t)
            have.add(t.training_id)
    return trains


def _work(trial: Trial, trains: Container[Trial]) -> float:
    return work(trial) if trial in trains else work(trial, images=0)


def _tune(
    todo: list[Trial], weights: dict[str, str | None], runs: dict[str, str], store: Store, place: Place, device: str,
    view: View,
) -> None:  # fmt: skip
    """Run the trials; `weights` is, by trial id, the run whose weights to measure, or None to train."""
    if not todo:
        return
    from ray import tune

    class Events(tune.Callback):
        """Tune's events, passed on to the view and the store."""

        def __reduce__(self):
            return tune.Callback, ()  # Tune pickles its callbacks for its own restore, which is not ours

        def on_trial_start(self, iteration, trials, trial, **info):
            key = trial.config["cell"]["id"]
            with contextlib.suppress(Exception):  # the trial logs to the same store, and will say why it cannot
                store.start(runs[key], weights[key])
            view.begin(key)

        def on_trial_result(self, iteration, trials, trial, result, **info):
            key = trial.config["cell"]["id"]
            if "failure" in result:
                _keep(store, runs[key], "FAILED", result["failure"], result["diverged"])
                view.end(key, result["failure"], "diverged" if result["diverged"] else "failed")
            elif "finished" in result:
                view.end(key, _keep(store, runs[key], "FINISHED"))
            else:
                view.update(key, {k: v for k, v in result.items() if isinstance(v, int | float)})

        def on_trial_error(self, iteration, trials, trial, **info):
            key, reason = trial.config["cell"]["id"], "its process died (out of memory?)"
            _keep(store, runs[key], "FAILED", reason)
            view.end(key, reason)

    cells = [
        {
            "id": t.id,
            "fields": flatten(t),
            "run_id": runs[t.id],
            "weights": weights[t.id],
            "uri": store.uri,
            "place": {k: str(v.resolve()) for k, v in asdict(place).items()},
            "device": device,
        }
        for t in todo
    ]
    share = {"CPU": 1} | ({"GPU": 1} if device == "cuda" else {})
    scratch, quiet = tempfile.TemporaryDirectory(prefix="tune-"), contextlib.redirect_stdout(io.StringIO())
    with _interruptible(view, todo), scratch as folder, quiet:
        tune.Tuner(
            tune.with_resources(_trial, tune.PlacementGroupFactory([share])),
            param_space={"cell": tune.grid_search(cells)},
            tune_config=tune.TuneConfig(
                reuse_actors=True,  # a warm worker: torch and MLflow are imported once, not once a trial
                trial_dirname_creator=lambda trial: trial.config["cell"]["id"],
            ),
            run_config=tune.RunConfig(name="sweep", storage_path=folder, verbose=0, callbacks=[Events()]),
        ).fit()


@contextlib.contextmanager
def _interruptible(view: View, todo: list[Trial]) -> Iterator[None]:
    """Tune takes Ctrl-C for itself, stops its trials and returns as if all were well: here it is Ctrl-C again."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
    if any(view.rows[t.id].state in ("waiting", "running") for t in todo):
        raise KeyboardInterrupt


def _trial(config: dict) -> None:
    """A trial in its worker: whatever goes wrong ends this trial as failed, with the reason, and no other."""
    import time

    import torch
    from ray import tune

    cell, told = config["cell"], 0.0
    place = Place(**{k: Path(v) for k, v in cell["place"].items()})

    def progress(metrics: dict) -> None:
        nonlocal told
        if "fid" in metrics or time.monotonic() - told > PROGRESS_SECONDS:  # a report waits for the driver
            told = time.monotonic()
            tune.report(metrics)

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    try:
        trial, sink = make(cell["fields"]), Mlflow(cell["uri"], cell["run_id"])
        if cell["weights"] is None:
            run(trial, sink, place, cell["device"], progress)
        else:
            with tempfile.TemporaryDirectory() as folder:
                found = tracking.weights(cell["uri"], cell["weights"], Path(folder))
                measure(trial, found, sink, place, cell["device"], progress)
    except Diverged as error:
        place.checkpoint(trial).unlink(missing_ok=True)
        tune.report({"failure": str(error), "diverged": True})
    except Exception as error:
        with contextlib.suppress(Exception), tempfile.TemporaryDirectory() as folder:  # a full disk, a lost store
            path = Path(folder) / "traceback.txt"
            path.write_text(traceback.format_exc())
            sink.file(path, "failure")
        tune.report({"failure": f"{type(error).__name__}: {error}", "diverged": False})
    else:
        tune.report({"finished": True})
