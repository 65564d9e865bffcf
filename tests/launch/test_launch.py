"""A sweep through Ray Tune and MLflow, small: what is done is skipped, what fails fails alone, one driver a folder."""

import contextlib
import io
import os
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console

from harness import record
from harness.config import base, change, grid, names
from harness.data.files import parquet_path
from harness.errors import ConfigError
from harness.launch import cluster as clusters
from harness.launch import tune as launcher
from harness.launch.cluster import cpus, only_driver
from harness.launch.tune import Outcome, launch, trainers
from harness.launch.view import View
from harness.tracking.store import Run, Store
from harness.trial import Place

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("DATA", ROOT / "data"))
SETTINGS = {
    "model.size": "1x64x1", "model.patch": 8, "data.images": 256, "train.images": 96, "train.batch": 32,
    "evaluate.points": 1, "evaluate.samples": 16, "evaluate.reference": 64, "evaluate.steps": 2,
    "evaluate.val_images": 16,
}  # fmt: skip

needs_data = pytest.mark.skipif(
    not parquet_path("fashion-mnist", DATA).exists(),
    reason=f"no Fashion-MNIST in {DATA}: make it with `make data`",
)


def cells(*rates):
    return grid(base("smoke") | SETTINGS, {"train.lr": rates})


def ran(trials, store, out):
    """Launch in this process; the outcome and the lines on the screen."""
    console = Console(file=io.StringIO(), width=300)
    with only_driver(out), clusters.cluster() as device_of:
        outcome = launch(trials, "test", store, Place(DATA, out), device_of, console)
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
    def test_a_trial_that_diverges_leaves_the_others_running(self, study):
        trials, _, _, outcome, lines = study
        called = names(trials)
        assert sorted(outcome.finished) == [called[trials[0].id], called[trials[2].id]]
        assert outcome.failed == {} and list(outcome.diverged) == [called[trials[1].id]]
        assert outcome.diverged[called[trials[1].id]].startswith("loss became ")
        assert sum(line.split("  |  ")[0].endswith(": done") for line in lines) == 2
        assert any(": diverged: loss became " in line for line in lines)

    def test_the_store_knows_what_became_of_each(self, study):
        trials, store, _, outcome, _ = study
        runs = store.runs(t.id for t in trials)
        assert [runs[t.id].status for t in trials] == ["FINISHED", "FAILED", "FINISHED"]
        assert [runs[t.id].diverged for t in trials] == [False, True, False]
        assert runs[trials[1].id].reason == outcome.diverged[names(trials)[trials[1].id]]
        run = store.client.get_run(runs[trials[0].id].run_id)
        assert run.data.metrics.keys() == record.METRICS.keys()
        own = {name for name in record.PARAMS if name.endswith(".version")}  # of outside code, of which there is none
        assert record.PARAMS.keys() - own <= run.data.params.keys()
        assert run.data.tags[record.TAG_PARENT] == outcome.parent and run.data.tags["version.ray"]
        assert store.client.get_metric_history(run.info.run_id, "fid")[0].step == 96
        files = [file.path for folder in (record.WEIGHTS, record.SAMPLES)
                 for file in store.client.list_artifacts(run.info.run_id, folder)]  # fmt: skip
        assert files == ["weights/config.json", "weights/ema.safetensors", "samples/0000000096.png"]

    def test_nothing_is_left_of_what_is_over(self, study):
        _, _, out, *_ = study
        assert not list((out / "checkpoints").iterdir())

    def test_what_is_over_is_skipped(self, study, monkeypatch):
        """Finished or diverged: the same settings would come to the same."""
        trials, store, out, outcome, _ = study
        monkeypatch.setattr(launcher, "_tune", lambda *_: pytest.fail("trials were started"))
        again, lines = ran(trials, store, out)
        assert again == Outcome(outcome.parent, [], {}, outcome.diverged) and lines == []

    def test_other_data_of_the_same_name_are_refused(self, study, monkeypatch):
        trials, store, out, *_ = study
        one, own = cells(6e-3)[0], store.runs([trials[0].id])[trials[0].id].digest
        store.create(one, one.name, "test", store.parent("test", []), {"data.digest": "0" * 64})
        monkeypatch.setattr(launcher, "_tune", lambda *_: pytest.fail("trials were started"))
        with pytest.raises(ConfigError, match=f"^data.dataset: 'fashion-mnist' now has the content {own[:12]}, and "):
            ran([trials[0], one], store, out)
        assert store.trained([trials[0].training_id], ["0" * 64]) == {}
        assert store.trained([trials[0].training_id], [own]).keys() == {trials[0].training_id}

    def test_a_failed_trial_is_tried_again_in_its_own_run(self, study, monkeypatch):
        _, store, out, *_ = study
        failed, started = change(cells(5e-3)[0], seed=7), []
        run_id = store.create(failed, failed.name, "test", store.parent("test", []), {})
        store.set(run_id, "FAILED", "out of disk")
        monkeypatch.setattr(clusters, "cluster", lambda *_: contextlib.nullcontext(lambda: "cpu"))
        monkeypatch.setattr(launcher, "_tune", lambda todo, weights, runs, *_: todo and started.append(runs))
        again, _ = ran([failed], store, out)
        assert started == [{failed.id: run_id}]
        assert again.failed == {failed.name: "stopped before it was finished"}
        assert store.runs([failed.id])[failed.id].status == "KILLED"

    def test_weights_are_measured_again_and_not_trained_again(self, study):
        trials, store, out, *_ = study
        asked = change(trials[0], evaluate__steps=3)
        outcome, _ = ran([trials[0], asked], store, out)
        assert outcome.finished == [names([trials[0], asked])[asked.id]]
        source, run = (store.client.get_run(store.runs([t.id])[t.id].run_id) for t in (trials[0], asked))
        assert run.data.tags[record.TAG_WEIGHTS] == source.info.run_id
        assert "loss" not in run.data.metrics and run.data.metrics["fid"] != source.data.metrics["fid"]

    def test_an_interrupted_sweep_stops_at_once_and_leaves_its_trials_to_do(self, study, monkeypatch):
        """Tune takes Ctrl-C for itself and returns as if all were well."""
        _, store, out, *_ = study
        first, second = cells(7e-3, 8e-3)
        long, begin = change(first, train__images=10_000_000), View.begin

        def interrupt(view, trial_id):
            begin(view, trial_id)
            threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()

        monkeypatch.setattr(clusters, "cpus", lambda: 1)
        monkeypatch.setattr(View, "begin", interrupt)
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            ran([long, second], store, out)
        assert signal.getsignal(signal.SIGINT) is before
        runs = store.runs([long.id, second.id])
        assert {(run.status, run.reason) for run in runs.values()} == {("KILLED", "stopped before it was finished")}

    def test_a_run_that_was_deleted_meanwhile_fails_alone(self, study, monkeypatch):
        _, store, out, *_ = study
        victim, other = cells(9e-3, 11e-3)
        begin = View.begin

        def delete(view, trial_id):
            begin(view, trial_id)
            if trial_id == victim.id:
                store.client.delete_run(store.runs([victim.id])[victim.id].run_id)

        monkeypatch.setattr(clusters, "cpus", lambda: 1)
        monkeypatch.setattr(View, "begin", delete)
        outcome, _ = ran([victim, other], store, out)
        assert outcome.finished == [names([victim, other])[other.id]]
        assert list(outcome.failed) == [names([victim, other])[victim.id]]

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

        monkeypatch.setattr(clusters, "cpus", lambda: 1)  # one at a time, so that the worker is the victim's
        monkeypatch.setattr(View, "begin", kill)
        outcome, _ = ran([victim, other], store, out)
        assert killed
        assert outcome.finished == [names([victim, other])[other.id]]
        assert outcome.failed == {names([victim, other])[victim.id]: "its process died (out of memory?)"}


def worker_of_this_process():
    """Process ids of the Ray workers that run a trial, among the descendants of this process."""
    import psutil

    found = psutil.Process().children(recursive=True)
    return [p.pid for p in found if p.is_running() and "ImplicitFunc" in "".join(p.cmdline()[:1])]


class Shelf:
    """A store of runs that are there already; it makes 'new' ones and remembers what they came to."""

    uri = "sqlite:///nowhere"

    def __init__(self, **known):
        self.known, self.ended, self.weights = known, {}, {}

    def runs(self, wanted):
        return {key: self.known[key] for key in wanted if key in self.known}

    def parent(self, *_):
        return "parent"

    def trained(self, wanted, digests):
        return {key: run for key, run in self.weights.items() if key in wanted}

    def create(self, *_):
        return "new"

    def set(self, run_id, status, reason="", diverged=False):
        self.ended[run_id] = (status, reason, "diverged") if diverged else (status, reason)


def test_what_is_to_do_is_all_but_what_is_over_the_longest_first(tiny, place, monkeypatch):
    """Failed and killed trials are tried again in the runs they have."""
    trials = [tiny(train__images=8 * n) for n in (1, 2, 3, 4, 5, 6)]
    states = dict(zip(trials, ("FINISHED", "FAILED", "KILLED", "RUNNING"), strict=False))
    shelf, asked = Shelf(**{t.id: Run(state.lower(), state, "") for t, state in states.items()}), []
    shelf.known[trials[5].id] = Run("lost", "FAILED", "loss became inf at step 9", diverged=True)

    def tune(todo, weights, runs, store, place, device, view):
        if not todo:
            return
        asked.append([(t.train.images, runs[t.id]) for t in todo])
        view.end(todo[0].id)
        view.end(todo[1].id, "out of disk")

    monkeypatch.setattr(launcher, "_tune", tune)
    outcome = launch(trials, "test", shelf, place, lambda: "cpu", Console(file=io.StringIO()))
    assert asked == [[(40, "new"), (32, "running"), (24, "killed"), (16, "failed")]]
    stopped = "stopped before it was finished"
    assert shelf.ended == {"killed": ("KILLED", stopped), "failed": ("KILLED", stopped)}  # the rest ended by themselves
    assert outcome.failed[names(trials)[trials[3].id]] == "out of disk"
    assert outcome.parent == "parent" and len(outcome.finished) == 1
    assert outcome.diverged == {names(trials)[trials[5].id]: "loss became inf at step 9"}


def test_a_trial_measured_at_its_end_alone_takes_the_weights_of_another(tiny):
    along, end, more = tiny(), tiny(evaluate__points=1), tiny(evaluate__points=1, evaluate__steps=9)
    assert trainers([along, end, more], {}) == {along}
    assert trainers([more, end], {}) == {end}  # the cheapest to measure
    assert trainers([more, end], {end.training_id}) == set()
    assert trainers([along], {along.training_id}) == {along}  # its curve cannot be had from weights


@pytest.mark.parametrize("state", ["done", "failed", "diverged"])
def test_what_waits_for_weights_comes_after_who_trains_them(tiny, place, monkeypatch, state):
    """Where they were not trained it fails, and where they cannot be it has diverged too."""
    first, second = tiny(evaluate__points=1), tiny(evaluate__points=1, evaluate__steps=9)
    ready = tiny(evaluate__points=1, train__lr=5e-4)
    shelf, stages = Shelf(), []
    shelf.weights = {ready.training_id: "old"}
    monkeypatch.setattr(shelf, "create", lambda trial, *_: f"run {trial.id}")

    def tune(todo, weights, runs, store, place, device, view):
        stages.append({t.id: weights[t.id] for t in todo})
        for t in todo:
            view.end(t.id, "" if state == "done" or t != first else "loss became nan at step 3", state)

    monkeypatch.setattr(launcher, "_tune", tune)
    given = [second, ready, first]
    outcome = launch(given, "test", shelf, place, lambda: "cpu", Console(file=io.StringIO()))
    assert stages[0] == {first.id: None, ready.id: "old"}
    assert stages[1] == ({second.id: f"run {first.id}"} if state == "done" else {})
    called = names(given)
    known = {"failed": {first.id: "loss became nan at step 3", second.id: "its weights were not trained"}}
    known["diverged"] = dict.fromkeys((first.id, second.id), "loss became nan at step 3")
    assert (outcome.failed if state == "failed" else outcome.diverged) == {
        called[key]: reason for key, reason in known.get(state, {}).items()
    }
    assert shelf.ended.get(f"run {second.id}") == {
        "done": None, "failed": ("KILLED", "its weights were not trained"),
        "diverged": ("FAILED", "loss became nan at step 3", "diverged"),
    }[state]  # fmt: skip


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
    with (
        pytest.raises(ConfigError, match=r"^RAY_ADDRESS: '127.0.0.1:9': no GCS there; "),
        clusters.cluster() as device_of,
    ):
        device_of()


def test_a_sweep_that_fails_while_the_cluster_starts_ends_it(monkeypatch):
    import ray

    ended = []
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(clusters, "_start", lambda *_: "cpu")
    with pytest.raises(ZeroDivisionError), clusters.cluster():
        raise ZeroDivisionError
    assert ended == [True]


def test_there_are_cpus():
    assert 1 <= cpus() <= os.cpu_count()
