"""A sweep through Ray Tune and MLflow, small: what is done is skipped, what fails fails alone, one driver a folder."""

import contextlib
import io
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from harness import data, launch, record
from harness.config import ConfigError, base, grid
from harness.launch import only_driver
from harness.tracking import Run, Store
from harness.trial import Place
from harness.view import View

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("DATA", ROOT / "data"))
SETTINGS = {
    "model.size": "1x64x1", "model.patch": 8, "data.images": 256, "train.images": 96, "train.batch": 32,
    "evaluate.points": 1, "evaluate.samples": 16, "evaluate.reference": 64, "evaluate.steps": 2,
    "evaluate.val_images": 16,
}  # fmt: skip

needs_data = pytest.mark.skipif(
    not data.parquet_path("fashion-mnist", DATA).exists(),
    reason=f"no Fashion-MNIST in {DATA}: make it with `make data`",
)


def cells(*rates):
    return grid(base("smoke") | SETTINGS, {"train.lr": rates})


def ran(trials, store, out):
    """Launch in this process; the outcome and the lines on the screen."""
    console = Console(file=io.StringIO(), width=300)
    with only_driver(out):
        outcome = launch.launch(trials, "test", store, Place(DATA, out), console)
    return outcome, console.file.getvalue().splitlines()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three trials, of which the second diverges: trials, store, folder, outcome, lines."""
    out = tmp_path_factory.mktemp("study")
    store = Store(f"sqlite:///{out / 'mlflow.db'}", out)
    trials = cells(1e-3, 1e30, 2e-3)
    return trials, store, out, *ran(trials, store, out)


@needs_data
@pytest.mark.slow
class TestStudy:
    def test_a_failed_trial_leaves_the_others_running(self, study):
        trials, _, _, outcome, lines = study
        assert sorted(outcome.finished) == [trials[0].name, trials[2].name]
        assert list(outcome.failed) == [trials[1].name]
        assert outcome.failed[trials[1].name].startswith("loss became ")
        assert sum(line.split("  |  ")[0].endswith(": done") for line in lines) == 2
        assert any(": failed: loss became " in line for line in lines)

    def test_the_store_knows_what_became_of_each(self, study):
        trials, store, _, outcome, _ = study
        runs = store.runs(t.id for t in trials)
        assert [runs[t.id].status for t in trials] == ["FINISHED", "FAILED", "FINISHED"]
        assert runs[trials[1].id].reason == outcome.failed[trials[1].name]
        run = store.client.get_run(runs[trials[0].id].run_id)
        assert run.data.metrics.keys() == record.METRICS.keys()
        assert record.PARAMS.keys() <= run.data.params.keys()
        assert run.data.tags[record.TAG_PARENT] == outcome.parent and run.data.tags["version.ray"]
        assert store.client.get_metric_history(run.info.run_id, "fid")[0].step == 96
        files = [file.path for folder in (record.WEIGHTS, record.SAMPLES)
                 for file in store.client.list_artifacts(run.info.run_id, folder)]  # fmt: skip
        assert files == ["weights/config.json", "weights/ema.safetensors", "samples/0000000096.png"]

    def test_nothing_is_left_of_what_is_finished(self, study):
        trials, _, out, *_ = study
        left = {file.stem for file in (out / "checkpoints").glob("*.pt")}
        assert not left & {trials[0].id, trials[2].id}

    def test_what_is_finished_is_skipped_and_ray_is_not_started(self, study, monkeypatch):
        trials, store, out, outcome, _ = study
        monkeypatch.setattr(launch, "cluster", lambda: pytest.fail("Ray was started"))
        again, lines = ran([trials[0], trials[2]], store, out)
        assert again == launch.Outcome(outcome.parent, [], {}) and lines == []

    def test_a_failed_trial_is_tried_again_in_its_own_run(self, study, monkeypatch):
        trials, store, out, *_ = study
        before, started = store.runs(t.id for t in trials), []
        monkeypatch.setattr(launch, "cluster", lambda: contextlib.nullcontext("cpu"))
        monkeypatch.setattr(launch, "_tune", lambda todo, runs, *_: started.append(runs))
        again, _ = ran(trials, store, out)
        assert started == [{trials[1].id: before[trials[1].id].run_id}]
        assert again.failed == {trials[1].name: "stopped before it was finished"}
        assert store.runs([trials[1].id])[trials[1].id].status == "KILLED"

    def test_a_trial_whose_process_dies_fails_alone(self, study, monkeypatch):
        """Its worker is killed, as by a machine out of memory, the moment it starts."""
        _, store, out, *_ = study
        victim, other = cells(3e-3, 4e-3)
        begin, killed = View.begin, []

        def kill(view, trial_id):
            begin(view, trial_id)
            if trial_id == victim.id:
                killed.extend(worker_of_this_process())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

        monkeypatch.setattr(launch, "cpus", lambda: 1)  # one at a time, so that the worker is the victim's
        monkeypatch.setattr(View, "begin", kill)
        outcome, _ = ran([victim, other], store, out)
        assert killed
        assert outcome.finished == [other.name]
        assert outcome.failed == {victim.name: "its process died (out of memory?)"}


def worker_of_this_process():
    """Process ids of the Ray workers that run a trial, among the descendants of this process."""
    import psutil

    found = psutil.Process().children(recursive=True)
    return [p.pid for p in found if p.is_running() and "ImplicitFunc" in "".join(p.cmdline()[:1])]


class Shelf:
    """A store of runs that are there already; it makes 'new' ones and remembers what they came to."""

    uri = "sqlite:///nowhere"

    def __init__(self, **known):
        self.known, self.ended = known, {}

    def runs(self, wanted):
        return {key: self.known[key] for key in wanted if key in self.known}

    def parent(self, *_):
        return "parent"

    def create(self, *_):
        return "new"

    def set(self, run_id, status, reason=""):
        self.ended[run_id] = status, reason


def test_what_is_to_do_is_all_but_the_finished_the_longest_first(tiny, place, monkeypatch):
    """Failed and killed trials are tried again in the runs they have."""
    trials = [tiny(train__images=8 * n) for n in (1, 2, 3, 4, 5)]
    states = dict(zip(trials, ("FINISHED", "FAILED", "KILLED", "RUNNING"), strict=False))
    shelf, asked = Shelf(**{t.id: Run(state.lower(), state, "") for t, state in states.items()}), []

    def tune(todo, runs, store, place, device, view):
        asked.append([(t.train.images, runs[t.id]) for t in todo])
        view.end(todo[0].id)
        view.end(todo[1].id, "loss became nan at step 3")

    monkeypatch.setattr(launch, "cluster", lambda: contextlib.nullcontext("cpu"))
    monkeypatch.setattr(launch, "_tune", tune)
    outcome = launch.launch(trials, "test", shelf, place, Console(file=io.StringIO()))
    assert asked == [[(40, "new"), (32, "running"), (24, "killed"), (16, "failed")]]
    stopped = "stopped before it was finished"
    assert shelf.ended["running"] == ("FAILED", "loss became nan at step 3")
    assert shelf.ended["killed"] == shelf.ended["failed"] == ("KILLED", stopped)
    assert outcome.parent == "parent" and len(outcome.finished) == 1


def test_a_second_driver_is_refused(tmp_path):
    held = f"^--out: '{tmp_path}' is in use by another sweep; wait for it, or choose another$"
    with only_driver(tmp_path), pytest.raises(ConfigError, match=held), only_driver(tmp_path):
        pytest.fail("let in")
    with only_driver(tmp_path):  # free again
        pass


def test_a_folder_is_free_again_after_a_driver_that_failed(tmp_path):
    with pytest.raises(ZeroDivisionError), only_driver(tmp_path):
        raise ZeroDivisionError
    with only_driver(tmp_path):
        pass


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    import ray

    def fail(*_, **__):
        raise ConnectionError("no GCS there")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS: '127.0.0.1:9': no GCS there; "), launch.cluster():
        pytest.fail("let in")


def test_there_are_cpus():
    assert 1 <= launch.cpus() <= os.cpu_count()
