"""A whole trial on a tiny dataset: what it logs and when, what it leaves behind, and that a killed one goes on."""

import io
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_weights

from harness import hardware, record, trial
from harness.config import Trial, base, make
from harness.cost import interface
from harness.data import registry as datasets
from harness.diffusion.objectives.registry import OBJECTIVES
from harness.diffusion.process import SCHEDULES
from harness.diffusion.samplers.registry import SAMPLERS
from harness.errors import ConfigError
from harness.metrics import registry as evaluation
from harness.metrics.extractors.registry import EXTRACTORS
from harness.metrics.registry import evaluate
from harness.models.conditioning import CONDITIONING
from harness.models.registry import BACKBONES, build
from harness.tracking.sinks import Memory, Null
from harness.training import checkpoint
from harness.training.loop import Diverged
from harness.training.state import State
from harness.trial import check, measure, run


@pytest.fixture(autouse=True)
def _matmul_precision():
    """`run` sets it for the process."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def ran(cell, place, **options):
    sink = Memory()
    run(cell, sink, place, "cpu", **options)
    return sink


def weights(sink):
    files = dict(sink.files)
    return load_weights(files[f"{record.WEIGHTS}/ema.safetensors"])


def evaluations(sink):
    return {images: metrics for images, metrics in sink.metrics if "fid" in metrics}


class Killed(BaseException):
    """As a signal would: no handler of ordinary errors sees it."""


def killed_at(images):
    def progress(told):
        if told["images"] >= images:
            raise Killed

    return progress


def test_it_logs_what_the_contract_names_at_the_cadence(tiny, place):
    cell = tiny(train__images=128, train__batch=8, evaluate__points=3)
    told = []
    sink = ran(cell, place, progress=told.append)
    names = {name for _, metrics in sink.metrics for name in metrics}
    assert names == set(record.METRICS)
    assert tuple(evaluations(sink)) == cell.cadence == (32, 64, 128)
    assert [images for images, metrics in sink.metrics if "loss" in metrics] == list(range(8, 129, 8))
    assert {name for one in told for name in one} - {"images", "share"} <= set(record.METRICS)
    assert sum("fid" in one for one in told) == 3
    shares = [one["share"] for one in told]
    assert shares == sorted(shares) and shares[-1] == 1 and told[-1]["images"] == 128
    work = 3 * 128 + 3 * 16 * 2  # in forward passes: training, then 16 samples of 2 steps
    assert shares[0] == pytest.approx(3 * 8 / work) and shares[4] == pytest.approx((3 * 32 + 32) / work)
    for _, metrics in sink.metrics:
        assert all(torch.tensor(value).isfinite() for value in metrics.values())
    for images, metrics in evaluations(sink).items():
        assert set(record.QUALITY) <= set(metrics)
        assert metrics["train_gflops"] == pytest.approx(3 * trial.cost(cell).gflops * images)
        assert 10 ** metrics["log10_train_gflops"] == pytest.approx(metrics["train_gflops"], rel=1e-4)
    seconds = [metrics["train_seconds"] for _, metrics in sink.metrics if "train_seconds" in metrics]
    assert seconds == sorted(seconds)


def test_long_runs_log_their_loss_no_more_than_64_times(tiny, place):
    sink = ran(tiny(train__images=400, train__batch=2, evaluate__points=1, diffusion__objective="noise"), place)
    lines = [metrics for _, metrics in sink.metrics if "loss" in metrics]
    assert 48 <= len(lines) <= 64 + 1
    assert not any("vb" in metrics for metrics in lines)  # not learned, so absent and not 0


def test_a_long_window_is_logged_and_saved_when_its_time_has_come(tiny, place, monkeypatch):
    """Else a killed run of slow steps would lose a 64th of itself."""
    monkeypatch.setattr(trial, "LOGS", 1)
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0)
    saved = []
    monkeypatch.setattr(trial.checkpoint, "save", lambda path, what: saved.append(what["digest"]))
    sink = ran(tiny(train__images=64, train__batch=8, evaluate__points=1), place)
    assert [images for images, metrics in sink.metrics if "loss" in metrics] == list(range(8, 65, 8))
    assert len(saved) == 8 and len(set(saved)) == 1 and saved[0]


def test_a_checkpoint_of_other_data_is_not_gone_on_with(tiny, place, monkeypatch):
    cell = tiny(train__images=64, train__batch=8, evaluate__points=1)
    whole = ran(cell, place)
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0)
    with pytest.raises(Killed):
        ran(cell, place, progress=killed_at(40))
    path = place.checkpoint(cell)
    checkpoint.save(path, checkpoint.load(path, "cpu") | {"digest": "0" * 64})
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 1e9)
    again = ran(cell, place)
    assert again.metrics[0][0] == whole.metrics[0][0] == 8 and not path.exists()
    expected = weights(whole)
    assert all(torch.equal(w, expected[name]) for name, w in weights(again).items())


def test_more_guided_channels_than_there_are_are_refused(tiny):
    with pytest.raises(
        ConfigError, match=r"^evaluate\.guidance_channels: 2 are more than the 1 of 'tiny'; allowed: 0 "
    ):
        trial.check(tiny(evaluate__guidance_channels=2))
    trial.check(tiny(evaluate__guidance_channels=1))


def test_the_logged_loss_is_the_mean_since_the_last_log(tiny, place, monkeypatch):
    cell = tiny(train__images=64, train__batch=8, evaluate__points=1)
    each = [metrics["loss"] for _, metrics in ran(cell, place).metrics if "loss" in metrics]
    monkeypatch.setattr(trial, "LOGS", 2)
    halves = [metrics["loss"] for _, metrics in ran(cell, place).metrics if "loss" in metrics]
    assert halves == pytest.approx([sum(each[:4]) / 4, sum(each[4:]) / 4])


def test_its_artifacts_load_back_as_the_average_that_was_measured(tiny, place, monkeypatch):
    states, nets, cell = [], [], tiny()
    monkeypatch.setattr(trial, "State", lambda *args: states.append(State(*args)) or states[-1])
    monkeypatch.setattr(evaluation, "evaluate", lambda one, against: nets.append(one.net) or evaluate(one, against))
    sink = ran(cell, place)
    files = dict(sink.files)
    assert Trial.model_validate(json.loads(files[f"{record.WEIGHTS}/config.json"])) == cell
    saved = weights(sink)
    assert {w.dtype for w in saved.values()} == {torch.float32}
    assert torch.equal(torch.cat([w.flatten() for w in map(saved.get, states[0].ema_weights())]), states[0].ema)
    assert all(torch.equal(w, saved[name]) for name, w in nets[-1].named_parameters())

    again = Trial.model_validate(json.loads(files[f"{record.WEIGHTS}/config.json"]))
    net = build(again.model, *interface(again), seed=None)
    net.load_state_dict(saved)
    states[0].weights.copy_(states[0].ema)
    x, t, y = torch.randn(2, 1, 16, 16), torch.tensor([10, 900]), torch.tensor([0, 3])
    with torch.no_grad():
        assert net(x, t, y).any() and torch.equal(net(x, t, y), states[0].net(x, t, y))


def test_sheets_are_pictures_named_by_images_seen(tiny, place):
    sink = ran(tiny(), place)
    sheets = {name: content for name, content in sink.files if name.startswith(record.SAMPLES)}
    assert list(sheets) == ["samples/0000000064.png", "samples/0000000128.png"]
    assert {Image.open(io.BytesIO(content)).size for content in sheets.values()} == {(5 * 32, 3 * 32)}


@pytest.mark.parametrize("kill", [40, 64, 104])
def test_a_killed_run_goes_on_and_ends_the_same(tiny, place, tmp_path, monkeypatch, kill):
    """Killed before the first evaluation, in it, or after it: the same weights to the bit, the same evaluations."""
    cell = tiny()
    whole = ran(cell, trial.Place(place.data, tmp_path / "whole"))
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", 0 if kill == 40 else 1e9)
    with pytest.raises(Killed):
        ran(cell, place, progress=killed_at(kill))
    assert place.checkpoint(cell).exists() == (kill != 64)
    resumed = ran(cell, place)
    first = next(images for images, _ in resumed.metrics)
    assert first == {40: 40, 64: 8, 104: 72}[kill]
    expected = weights(whole)
    assert all(torch.equal(w, expected[name]) for name, w in weights(resumed).items())
    before, after = evaluations(whole), evaluations(resumed)
    assert list(after) == ([64, 128] if kill < 104 else [128])
    for images, metrics in after.items():
        for name in record.QUALITY:
            assert metrics[name] == pytest.approx(before[images][name], rel=1e-6)


def test_a_resumed_run_counts_its_seconds_on(tiny, place):
    cell = tiny()
    with pytest.raises(Killed):
        ran(cell, place, progress=killed_at(104))
    path = place.checkpoint(cell)
    torch.save(torch.load(path) | {"trained": 1000.0}, path)
    assert ran(cell, place).metrics[0][1]["train_seconds"] > 1000


def test_nothing_of_a_finished_run_is_left_but_the_cache(tiny, place):
    cell = tiny()
    ran(cell, place)
    assert not place.checkpoint(cell).exists()
    assert [path.name for path in place.out.rglob("*") if path.is_file() and place.cache not in path.parents] == []


def test_measuring_weights_again_gives_what_their_own_trial_measured(tiny, place, tmp_path):
    sink = ran(tiny(), place)
    file = tmp_path / "ema.safetensors"
    file.write_bytes(dict(sink.files)[f"{record.WEIGHTS}/ema.safetensors"])
    again, told = Memory(), []
    measure(tiny(evaluate__points=1), file, again, place, "cpu", told.append)
    assert list(evaluations(again)) == [128] and not any("loss" in metrics for _, metrics in again.metrics)
    ours, theirs = evaluations(again)[128], evaluations(sink)[128]
    assert {k: v for k, v in ours.items() if k != "eval_seconds"} == {
        k: v for k, v in theirs.items() if k != "eval_seconds"
    }
    assert [name for name, _ in again.files] == [f"{record.SAMPLES}/0000000128.png"]
    assert told[-1]["images"] == 128 and told[-1]["share"] == 1
    other = Memory()
    measure(tiny(evaluate__points=1, evaluate__steps=3), file, other, place, "cpu")
    assert evaluations(other)[128]["fid"] != theirs["fid"]


def test_checkpoints_are_the_trial_s_own(tiny, place):
    assert place.checkpoint(tiny()) != place.checkpoint(tiny(train__lr=2e-3))


def test_divergence_ends_the_run_and_names_the_step(tiny, place):
    sink = Memory()
    with pytest.raises(Diverged, match=r"^loss became (nan|inf) at step \d+$"):
        run(tiny(train__lr=1e30), sink, place, "cpu")
    assert not sink.files and not evaluations(sink)


def test_only_the_first_images_are_trained_on_but_all_are_compared_with(tiny, place, monkeypatch):
    seen = {}
    steps = trial.steps
    monkeypatch.setattr(trial, "steps", lambda state, cell, images, *rest: seen.update(images=images) or steps(
        state, cell, images, *rest))  # fmt: skip
    run(tiny(data__images=20, evaluate__points=1), Null(), place, "cpu")
    real = datasets.load("tiny", "train", place.data)
    assert torch.equal(seen["images"].images, real.images[:20]) and len(seen["images"].labels) == 20


def test_facts_are_the_params_of_the_contract(tiny, place):
    cell = tiny()
    facts = trial.facts(cell, "abc", "cpu")
    contract = {q.name: q.type for q in record.PARAMS.values() if not q.name.endswith("version")}  # of the store
    assert {name: type(value) for name, value in facts.items()} == contract
    assert facts["train.arithmetic"] in ("float32", "bfloat16", "fp32", "bf16")
    assert facts["train_gflops_total"] == pytest.approx(3 * facts["model.gflops"] * 128)


def test_what_cannot_be_is_refused_before_any_training(tiny, place):
    for changes, words in (
        ({"model__patch": 5}, r"model\.patch: 5 does not divide the side 16; allowed: 1, 2, 4, 8, 16"),
        (
            {"evaluate__extractor": "vgg"},
            f"evaluate.extractor: unknown extractor 'vgg'; allowed: {', '.join(EXTRACTORS)}",
        ),
        ({"data__dataset": "mnist"}, r"data\.dataset: unknown dataset 'mnist'; allowed: fashion-mnist, "),
    ):
        with pytest.raises(ConfigError, match=words):
            trial.check(tiny(**changes))


def test_arithmetic_is_what_is_asked_for():
    assert hardware.arithmetic("fp32", "cpu") == torch.float32
    assert hardware.arithmetic("bf16", "cpu") == torch.bfloat16
    assert hardware.arithmetic("auto", "cpu") in (torch.float32, torch.bfloat16)
    assert not hardware.compile_pays(10, "cpu") and hardware.compile_pays(10, "cuda")


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("model.backbone", BACKBONES),
        ("model.conditioning", CONDITIONING),
        ("diffusion.objective", OBJECTIVES),
        ("diffusion.schedule", SCHEDULES),
        ("evaluate.sampler", SAMPLERS),
        ("evaluate.extractor", EXTRACTORS),
    ],
)
def test_a_name_that_no_registry_holds_is_refused_before_data_are_read(field, allowed):
    cell, outside = make(base("cpu") | {field: "none-such"}), ("model.backbone", "diffusion.objective")
    more = ", or your own as package.module:Name" if field in outside else ""
    with pytest.raises(ConfigError) as caught:
        check(cell)
    name = field.split(".")[1]
    assert str(caught.value) == f"{field}: unknown {name} 'none-such'; allowed: {', '.join(allowed)}{more}"
