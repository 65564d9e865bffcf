"""The sweeps and the command line: every cell can be built, plans say what the issue asks, bad input is one line."""

import contextlib
import csv
import importlib
import json
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from typer.testing import CliRunner

import analysis.report
from harness import estimate, hardware, trial
from harness.config import SCALES, base, make, names
from harness.cost import cost
from harness.launch import cluster
from harness.launch import tune as launch
from harness.launch.tune import Outcome, trainers
from harness.tracking import store as tracking
from harness.tracking.store import Run
from sweeps import __main__ as door

ROOT = Path(__file__).parents[1]
SPEED = estimate.Speed(fixed=1e-3, per_gflop=1e-2)
FIELDS = {
    "name", "size", "depth", "width", "heads", "patch", "conditioning", "tokens", "params_m", "gflops",
    "train_gflops", "images", "seed", "status",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """No test measures this machine, reaches a store or starts Ray, unless it says so."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(cluster, "cluster", lambda *_: contextlib.nullcontext(lambda: "cpu"))
    monkeypatch.setattr(estimate, "measure", lambda cache: SPEED)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def call(out, *arguments):
    return CliRunner().invoke(door.app, [*arguments, "--out", str(out)])


# Every sweep


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", door.names())
def test_every_sweep_can_be_built_at_every_scale(name, scale):
    cells = importlib.import_module(f"sweeps.{name}").trials(scale)
    assert cells and len({cell.id for cell in cells}) == len(cells) == len(set(names(cells).values()))
    for cell in cells:
        trial.check(cell)
        assert cost(cell).gflops > 0


@pytest.mark.parametrize("scale", SCALES)
def test_sizes_is_four_sizes_by_three_patches(scale):
    cells = importlib.import_module("sweeps.sizes").trials(scale)
    grid = {(cell.model.size, cell.model.patch) for cell in cells}
    assert grid == {(size, patch) for size in SCALES[scale].ladder for patch in SCALES[scale].patches}
    assert len(cells) == (4 if scale == "smoke" else 12)


def test_sizes_on_a_laptop_spans_over_two_decades_of_gflops():
    gflops = [cost(cell).gflops for cell in importlib.import_module("sweeps.sizes").trials("cpu")]
    assert max(gflops) / min(gflops) > 10**2.3


@pytest.mark.parametrize("scale", SCALES)
def test_conditioning_differs_in_conditioning_alone(scale):
    cells = importlib.import_module("sweeps.conditioning").trials(scale)
    assert [cell.model.conditioning for cell in cells] == ["in-context", "cross-attention", "adaLN", "adaLN-Zero"]
    assert len({cell.model_copy(update={"model": None}).model_dump_json() for cell in cells}) == 1
    assert len({(cell.model.size, cell.model.patch) for cell in cells}) == 1


@pytest.mark.parametrize("scale", SCALES)
def test_backbones_are_paired_by_their_gflops_and_differ_in_backbone_and_schedule_alone(scale):
    cells = importlib.import_module("sweeps.backbones").trials(scale)
    parts = {key: [] for key in (("dit", "linear"), ("unet", "cosine"), ("unet", "linear"))}
    for cell in cells:
        parts[cell.model.backbone, cell.diffusion.schedule].append(cell)
    transformers, unets, both = parts.values()
    assert len(transformers) == len(unets) >= len(both) >= 1
    assert [cell.model for cell in both] == [cell.model for cell in unets[: len(both)]]
    for transformer, unet in zip(transformers, unets, strict=True):
        assert cost(unet).gflops == pytest.approx(cost(transformer).gflops, rel=0.1 if scale == "smoke" else 0.05)
    assert len({cell.model_copy(update={"model": None, "diffusion": None}).model_dump_json() for cell in cells}) == 1
    if scale == "smoke":
        return
    sizes = {cell.id for cell in importlib.import_module("sweeps.sizes").trials(scale)}
    assert {cell.id for cell in transformers} <= sizes


def test_every_sweep_says_what_it_is(out):
    done = CliRunner().invoke(door.app, ["list"])
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(lines) == set(door.names()) >= {"smoke", "sizes", "conditioning", "depth_width"}
    assert all(len(about) > 20 for about in lines.values())


# Plans


def test_the_paper_s_plan_is_the_paper_s_table(out):
    """From a process of its own: standard output must hold nothing but the JSON, whatever the libraries say."""
    command = [sys.executable, "-m", "sweeps", "plan", "sizes", "--scale", "paper", "--format", "json"]
    done = subprocess.run([*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    table = list(csv.DictReader((ROOT / "analysis" / "published" / "dit_models.csv").open()))
    printed = {row["model"]: row for row in table if row["conditioning"] == "adaln_zero"}
    assert {f"DiT-{row['size']}/{row['patch']}" for row in rows} == set(printed) and len(rows) == 12
    for row in rows:
        paper = printed[f"DiT-{row['size']}/{row['patch']}"]
        assert set(row) >= FIELDS
        assert row["name"] == f"{paper['model']} adaLN-Zero seed 0"
        assert [row[k] for k in ("depth", "width", "heads")] == [int(paper[k]) for k in ("layers", "width", "heads")]
        assert row["tokens"] == (32 // row["patch"]) ** 2
        assert row["gflops"] == pytest.approx(float(paper["gflops"]), rel=0.005, abs=0.005)
        assert round(row["params_m"]) == int(paper["params_m"])
        assert row["images"] == 400_000 * 256 and row["status"] == "to do"
        assert row["train_gflops"] == pytest.approx(3 * row["gflops"] * row["images"], rel=1e-4)
    assert not out.exists()  # looking makes nothing


def test_a_plan_has_overrides_and_states(out, monkeypatch):
    cells = door.expand("sizes", "cpu", "seeds=2 model.patch=4,8", "")
    assert len(cells) == 4 * 2 * 2
    known = {cells[0].id: ("done", ""), cells[1].id: ("failed", "no disk"), cells[2].id: ("diverged", "at step 3")}
    monkeypatch.setattr(door, "statuses", lambda *_: known)
    arguments = ("sizes", "--scale", "cpu", "--set", "seeds=2 model.patch=4,8")
    rows = json.loads(call(out, "plan", *arguments, "--format", "json").stdout)
    assert [row["status"] for row in rows] == ["done", "failed", "diverged", *["to do"] * 13]
    assert [row["name"] for row in rows] == [cell.name for cell in cells]
    table = call(out, "plan", *arguments).stdout
    assert all(cell.name in table for cell in cells) and "2 done, 14 to do" in table
    lines = call(out, "status", *arguments).stdout.splitlines()
    assert lines[1] == f"failed   {cells[1].id}  {cells[1].name}  (no disk)"
    assert lines[2].startswith("diverged ") and lines[3].startswith("to do ")


def test_a_forecast_grows_with_what_is_asked(out):
    def seconds(settings=""):
        return json.loads(
            call(out, "plan", "conditioning", "--scale", "cpu", "--set", settings, "--format", "json").stdout
        )

    plain = seconds()
    for settings in ("train.images=200000", "evaluate.samples=9000", "evaluate.points=5", "model.patch=2"):
        assert seconds(settings)[0]["seconds"] > plain[0]["seconds"]
    assert seconds("train.batch=512 model.patch=2")[0]["memory_gb"] > plain[0]["memory_gb"] > 1


def test_a_forecast_is_a_line_in_the_gflops():
    cell = door.expand("smoke", "", "evaluate.samples=2000 evaluate.steps=10 train.images=1000", "")[0]
    g, images, points = cost(cell).gflops, cell.train.steps * cell.train.batch, len(cell.cadence)
    training, sampling = images * (0.5 + 2 * g), points * 2000 * 10 * g * 2 / 3  # a forward is a third of a step
    metrics = estimate.METRIC_SECONDS * points * 2
    assert estimate.Speed(fixed=0.5, per_gflop=2).seconds(cell) == pytest.approx(training + sampling + metrics)


def test_a_machine_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.undo()
    times = iter([(0.01, 0.1), (0.03, 0.2)])
    monkeypatch.setattr(estimate, "_seconds_an_image", lambda *_: next(times))
    speed = estimate.measure(tmp_path)
    assert (speed.fixed, speed.per_gflop) == pytest.approx((0, 0.2))  # 0.02 s more for 0.1 Gflops more; none below 0
    assert estimate.measure(tmp_path) == speed  # there is no third time


def test_a_probe_is_a_real_training_step():
    seconds, gflops = estimate._seconds_an_image("1x64", "cpu", torch.float32)
    assert 0 < seconds < 1
    assert gflops == cost(make(base("cpu", "1x64", 4))).gflops


# Bad input: one line on standard error, exit code 2, before any training


BAD = {
    "sweep": (["sises"], "unknown sweep 'sises'; allowed: backbones, conditioning, depth_width, "),
    "scale": (["sizes", "--scale", "huge"], "scale: unknown scale 'huge'; allowed: smoke, cpu, gpu, paper"),
    "size": (["sizes", "--set", "model.size=M"], "model.size: unknown size 'M'; allowed: "),
    "conditioning": (["sizes", "--set", "model.conditioning=film"], "unknown conditioning 'film'; allowed: in-"),
    "extractor": (["sizes", "--extractor", "vgg"], "unknown extractor 'vgg'; allowed: lite0, inception"),
    "dataset": (["sizes", "--set", "data.dataset=mnist"], "unknown dataset 'mnist'; allowed: fashion-mnist, "),
    "backbone": (["sizes", "--set", "model.backbone=resnet"], "unknown backbone 'resnet'; allowed: dit, unet"),
    "patch of a U-Net": (["sizes", "--set", "model.backbone=unet"], "model.patch: 8 is a transformer's"),
    "override": (["sizes", "--set", "train.imags=5"], "unknown override 'train.imags' (did you mean train.images?)"),
    "value": (["sizes", "--set", "train.lr=fast"], "train.lr: 'fast': "),
    "patch": (["sizes", "--set", "model.patch=5"], "model.patch: 5 does not divide the side 32; allowed: 1, 2, 4, "),
    "heads": (["sizes", "--set", "model.heads=5"], "heads=5 does not divide width="),
    "one cell of many": (["sizes", "--set", "model.patch=4,5"], "model.patch: 5 does not divide the side 32"),
}  # fmt: skip


def refused(done, words):
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and words in line


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("command", ["run", "plan", "status"])
def test_bad_input_is_one_line(out, monkeypatch, command, arguments, words):
    monkeypatch.setattr(launch, "launch", lambda *_: pytest.fail("launched"))
    refused(call(out, command, *arguments), words)
    assert not out.exists()


def test_an_unknown_format_is_one_line(out):
    refused(call(out, "plan", "sizes", "--format", "xml"), "--format: unknown format 'xml'; allowed: table, json")


@pytest.mark.parametrize("command", ["run", "plan", "status"])
def test_an_unreachable_tracking_server_is_one_line(out, monkeypatch, command):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    refused(call(out, command, "smoke"), "MLFLOW_TRACKING_URI: no server answers at 'http://127.0.0.1:9'")


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_unwritable_output_folder_is_one_line(tmp_path, place):
    (tmp_path / "file").write_text("")
    refused(call(tmp_path / place, "run", "smoke"), f"--out: '{tmp_path / place}' cannot be written (")


class NoStore:
    """A store of nothing, since making a real one takes seconds."""

    uri = "sqlite:///nowhere"

    def __init__(self, *_): ...

    def runs(self, _):
        return {}

    def trained(self, *_):
        return {}

    def cells(self, _):
        return []

    def reported(self, _):
        return []

    def parent(self, *_):
        return "parent"

    def attach(self, *_): ...


@pytest.fixture
def storeless(monkeypatch):
    """Data are looked at by the launcher, after the store and before the first trial."""
    monkeypatch.setattr(tracking, "Store", NoStore)
    monkeypatch.setattr(launch, "_tune", lambda *_: pytest.fail("trials were started"))


def test_a_corrupt_data_file_is_one_line(tmp_path, out, storeless):
    file = tmp_path / "fashion-mnist.parquet"
    file.write_bytes(b"PAR1 but not really")
    refused(call(out, "run", "smoke", "--data", str(tmp_path)), f"{file}: cannot be read (")


def test_data_that_only_plans_are_made_of_is_one_line(tmp_path, out, storeless):
    done = call(out, "run", "sizes", "--scale", "paper", "--extractor", "lite0", "--data", str(tmp_path))
    refused(done, "imagenet-256-latents/manifest.json")


def test_inception_without_its_weights_is_one_line(tiny, out, tmp_path, storeless, monkeypatch):
    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    settings = "data.dataset=tiny evaluate.reference=32"
    done = call(out, "run", "smoke", "--set", settings, "--extractor", "inception", "--data", str(tmp_path))
    refused(done, f"'inception' needs its weights at {tmp_path}/")


# Sweeps that share


@pytest.mark.parametrize("name", ["patch", "conditioning", "seeds", "schedules", "learning_rate"])
@pytest.mark.parametrize("scale", ["smoke", "cpu"])
def test_sweeps_share_cells_with_sizes(name, scale):
    ours, sizes = (
        {cell.id for cell in importlib.import_module(f"sweeps.{sweep}").trials(scale)} for sweep in (name, "sizes")
    )
    assert ours & sizes


@pytest.mark.parametrize("name", ["sampling", "guidance"])
@pytest.mark.parametrize("scale", SCALES)
def test_sweeps_of_evaluations_train_nothing_that_sizes_trained(name, scale):
    ours, sizes = (importlib.import_module(f"sweeps.{sweep}").trials(scale) for sweep in (name, "sizes"))
    assert {t.training_id for t in ours} <= {t.training_id for t in sizes}
    assert trainers(ours, {t.training_id for t in sizes}) == set()


def test_a_sweep_of_sweeps_runs_each_and_fails_if_one_does(out, monkeypatch):
    ran = []

    def launched(cells, sweep, *_):
        ran.append(sweep)
        return Outcome("parent", [], {"a": "no"} if sweep == "conditioning" else {})

    monkeypatch.setattr(tracking, "Store", NoStore)
    monkeypatch.setattr(launch, "launch", launched)
    monkeypatch.setattr(analysis.report, "write", lambda *_: out / "report.html")
    monkeypatch.setattr(analysis.report, "write_study", lambda *_: out / "study.html")
    done = call(out, "run", "paper", "--scale", "smoke")
    assert ran == list(importlib.import_module("sweeps.paper").SWEEPS) and done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("all sweeps: ") and done.stdout.endswith("study.html\n")
    cells = importlib.import_module("sweeps.paper").trials("smoke")
    assert len({cell.id for cell in cells}) == len(cells)


def test_a_plan_says_what_will_only_be_measured(out, monkeypatch):
    cells = door.expand("sampling", "smoke", "", "")
    monkeypatch.setattr(door, "weights", lambda *_: {cells[0].training_id: "run"})
    rows = json.loads(call(out, "plan", "sampling", "--scale", "smoke", "--format", "json").stdout)
    steps = len({cell.evaluate.steps for cell in cells})
    assert [row["status"] for row in rows[:steps]] == ["to measure"] * steps  # the first model's
    assert sum(row["status"] == "to do" for row in rows) == len({row["gflops"] for row in rows}) - 1


# What a run ends with


@pytest.mark.parametrize(
    ("finished", "failed", "diverged", "code", "words"),
    [
        (["a", "b", "c", "d"], {}, {}, 0, ["smoke: 4 of 4 trials done, 4 of them now", "report: "]),
        ([], {}, {}, 0, ["smoke: 4 of 4 trials done, nothing left to train", "report: "]),
        (["a"], {"b": "out of disk"}, {}, 1,
         ["smoke: 3 of 4 trials done, 1 of them now, the same", "failed: b: out of disk", "report: "]),
        ([], {}, {"b": "loss became nan at step 7"}, 0,
         ["smoke: 3 of 4 trials done, 1 diverged, nothing left to train", "diverged: b: loss became nan at step 7",
          "report: "]),
        ([], dict.fromkeys("abc", "no"), {"d": "nan"}, 1, ["smoke: 0 of 4 trials done, 1 diverged", "failed: c: no"]),
    ],
    ids=["all", "again", "one failed", "one diverged", "none"],
)  # fmt: skip
def test_the_end_of_a_run_is_a_summary_and_an_exit_code(
    out, storeless, monkeypatch, finished, failed, diverged, code, words
):
    monkeypatch.setattr(launch, "launch", lambda *_: Outcome("parent", finished, failed, diverged))
    monkeypatch.setattr(analysis.report, "write", lambda *_: out / "report.html")
    done = call(out, "run", "smoke")
    assert done.exit_code == code
    assert all(word in done.stdout for word in words)
    assert ("report: " in done.stdout) == ("report: " in words)


FINISHED = """
import sys
from harness.tracking import store as tracking
from harness.tracking.store import Run
from sweeps import __main__ as door

class Done:
    uri = "sqlite:///somewhere"
    def __init__(self, *_): ...
    def runs(self, ids): return {i: Run(i, "FINISHED", "") for i in ids}
    def cells(self, sweep): return [cell.id for cell in door.expand(sweep, "smoke", "", "")]
    reported = cells

tracking.Store = Done
try:
    door.app(["run", "smoke", "--scale", "smoke", "--out", sys.argv[1]])
finally:
    print(sorted({"torch", "ray", "mlflow", "pandas", "analysis.report"} & set(sys.modules)))
"""


def test_a_finished_sweep_is_found_without_importing_what_trains(out):
    page = out / "reports" / "smoke" / "report.html"
    page.parent.mkdir(parents=True)
    page.touch()
    (out / "mlflow.db").touch()
    done = subprocess.run([sys.executable, "-c", FINISHED, str(out)], cwd=ROOT, capture_output=True, text=True)
    assert "smoke: 4 of 4 trials done, nothing left to train" in done.stdout and "report: " in done.stdout
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("state", "last", "shown", "page", "whole"),
    [
        ("FINISHED", "ab", "ab", True, True),
        ("DIVERGED", "ab", "ab", True, True),
        ("FAILED", "ab", "ab", True, False),
        ("FINISHED", "a", "ab", True, False),
        ("FINISHED", "ab", "a", True, False),
        ("FINISHED", "ab", "ab", False, False),
    ],
    ids=["all there", "one diverged", "one failed", "other cells", "an older report", "no report"],
)
def test_a_sweep_is_only_skipped_if_its_report_shows_these_cells(out, monkeypatch, state, last, shown, page, whole):
    cells = door.expand("smoke", "smoke", "", "")[:2]
    names = dict(zip("ab", (cell.id for cell in cells), strict=True))
    runs = {names["a"]: Run("1", "FINISHED", ""), names["b"]: Run("2", state, "nan")}
    if state == "DIVERGED":
        runs[names["b"]] = Run("2", "FAILED", "nan", diverged=True)

    class Known(NoStore):
        def runs(self, _):
            return runs

        def cells(self, _):
            return [names[n] for n in last]

        def reported(self, _):
            return [names[n] for n in shown]

    monkeypatch.setattr(tracking, "Store", Known)
    monkeypatch.setattr(door, "expand", lambda *_: cells)
    launched = []
    monkeypatch.setattr(launch, "launch", lambda *a: launched.append(a) or Outcome("parent", [], {}))
    monkeypatch.setattr(analysis.report, "write", lambda *_: out / "report.html")
    file = out / "reports" / "smoke" / "report.html"
    file.parent.mkdir(parents=True)
    (out / "mlflow.db").touch()
    if page:
        file.touch()
    done = call(out, "run", "smoke")
    assert done.exit_code == 0
    assert bool(launched) != whole
    assert (f"diverged: {cells[1].name}: nan" in done.stdout) == (state == "DIVERGED")


@pytest.mark.parametrize(("node", "scale"), [(True, "gpu"), (False, "cpu")])
def test_the_default_scale_is_what_the_machine_has(monkeypatch, tmp_path, node, scale):
    monkeypatch.setattr(door, "GPU_NODES", (str(tmp_path if node else tmp_path / "none"),))
    monkeypatch.setattr(hardware, "device", lambda: "cuda")
    monkeypatch.setattr(sys, "platform", "linux")
    assert door.default_scale() == scale


def test_a_plan_of_thousands_shows_the_first_and_counts_the_rest(out):
    done = call(out, "plan", "sizes", "--scale", "cpu", "--set", "seeds=100")
    assert done.exit_code == 0 and "... and 1,000 more; FORMAT=json lists them all" in done.stdout
    assert "0 done, 1200 to do" in done.stdout
