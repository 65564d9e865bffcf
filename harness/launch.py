"""Ray Tune as the scheduler of a list of trials.

Tune is given the cells that are still to do and nothing else: which they are, their runs and their checkpoints are
ours (content hash, MLflow, `checkpoint.py`), so that a changed grid, a crash or another machine only ever means
running the same command again.
"""

import contextlib
import io
import os
import tempfile
import traceback
from collections.abc import Callable, Container
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from harness import hardware, tracking
from harness.config import Trial, flatten, make, names
from harness.cost import work
from harness.tracking import Store
from harness.train import Diverged
from harness.trial import Place, bench, facts, measure, run
from harness.view import Row, View

PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """Trial names by what became of them in this launch."""

    parent: str  # run id of the sweep's own run
    finished: list[str]
    failed: dict[str, str]  # name -> reason


def launch(
    trials: list[Trial], sweep: str, store: Store, place: Place, device_of: Callable[[], str], console: Console
) -> Outcome:
    """Run every trial that is not finished, and say what became of each. A failed trial leaves the others running.

    `device_of` waits for the cluster and says what trials compute on. Raises ConfigError, before any training, if data
    or extractor cannot be had.
    """
    known = store.runs(t.id for t in trials)
    todo = [t for t in trials if t.id not in known or known[t.id].status != "FINISHED"]
    for t in {(t.data, t.evaluate.extractor): t for t in todo}.values():
        bench(t, place).check()  # data and weights are at hand, before anything is started
    parent = store.parent(sweep, [t.id for t in trials])
    if not todo:
        return Outcome(parent, [], {})
    called, weights = names(trials), store.trained(t.training_id for t in todo)
    trains = trainers(todo, weights)
    todo.sort(key=lambda t: _work(t, trains), reverse=True)  # the longest first: none is left alone at the end
    rows = {t.id: Row(called[t.id], t.train.steps * t.train.batch, _work(t, trains)) for t in todo}
    with View(sweep, rows, len(trials) - len(todo), console) as view:
        for settings in {(t.data, t.evaluate): t for t in todo}.values():
            bench(settings, place).prepare(hardware.device())
        runs, device = {}, device_of()
        for t in todo:
            params = facts(t, bench(t, place).real.digest, device)
            runs[t.id] = known[t.id].run_id if t.id in known else store.create(t, called[t.id], sweep, parent, params)
        ready = [t for t in todo if t in trains or t.training_id in weights]
        _tune(ready, {t.id: None if t in trains else weights[t.training_id] for t in ready}, runs, store, place,
              device, view)  # fmt: skip
        weights |= {t.training_id: runs[t.id] for t in trains if rows[t.id].state == "done"}
        rest = [t for t in todo if t not in ready]
        ready = [t for t in rest if t.training_id in weights]
        _tune(ready, {t.id: weights[t.training_id] for t in ready}, runs, store, place, device, view)
    failed = {}
    for t in todo:
        row = rows[t.id]
        if row.state != "done":
            waited = t in rest and t not in ready
            failed[row.name] = row.reason or (
                "its weights were not trained" if waited else "stopped before it was finished"
            )
            store.set(runs[t.id], "FAILED" if row.state == "failed" else "KILLED", failed[row.name])
    return Outcome(parent, [rows[t.id].name for t in todo if rows[t.id].state == "done"], failed)


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
            store.start(runs[key], weights[key])
            view.begin(key)

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
            "weights": weights[t.id],
            "uri": store.uri,
            "place": {k: str(v.resolve()) for k, v in asdict(place).items()},
            "device": device,
        }
        for t in todo
    ]
    share = {"CPU": 1} | ({"GPU": 1} if device == "cuda" else {})
    with tempfile.TemporaryDirectory(prefix="tune-") as scratch, contextlib.redirect_stdout(io.StringIO()):
        tune.Tuner(
            tune.with_resources(_trial, tune.PlacementGroupFactory([share])),
            param_space={"cell": tune.grid_search(cells)},
            tune_config=tune.TuneConfig(
                reuse_actors=True,  # a warm worker: torch and MLflow are imported once, not once a trial
                trial_dirname_creator=lambda trial: trial.config["cell"]["id"],
            ),
            run_config=tune.RunConfig(name="sweep", storage_path=scratch, verbose=0, callbacks=[Events()]),
        ).fit()


def _trial(config: dict) -> None:
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
        if cell["weights"] is None:
            run(trial, sink, place, cell["device"], progress)
        else:
            with tempfile.TemporaryDirectory() as folder:
                found = tracking.weights(cell["uri"], cell["weights"], Path(folder))
                measure(trial, found, sink, place, cell["device"], progress)
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
