"""One trial from start to end: the only place that joins loop, cadence, evaluation, checkpoints and sink."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness import hardware, record
from harness.config import Trial
from harness.cost import cost, interface, work
from harness.data import registry as datasets
from harness.diffusion.objectives import registry as objectives
from harness.diffusion.samplers import registry as samplers
from harness.errors import ConfigError
from harness.metrics.extractors import registry as extractors
from harness.metrics.reference import SPLIT, Bench
from harness.models.registry import build
from harness.tracking.sinks import Sink
from harness.training import checkpoint
from harness.training.loop import Step, check_finite, steps
from harness.training.state import State

LOGS = 64  # times a run logs its training loss
CHECKPOINT_SECONDS = 60


@dataclass(frozen=True)
class Place:
    """Folders: `data` holds the datasets, `out` what is made from them. Never part of a trial's identity."""

    data: Path
    out: Path

    @property
    def cache(self) -> Path:
        return self.out / "cache"

    def checkpoint(self, trial: Trial) -> Path:
        return self.out / "checkpoints" / f"{trial.id}.pt"


def check(trial: Trial) -> None:
    """Everything of a trial that can be wrong before data are read. Raises ConfigError, one line."""
    cost(trial)
    objectives.check(trial)
    samplers.check(trial)
    extractors.lookup(trial.evaluate.extractor)
    guided, channels = trial.evaluate.guidance_channels, datasets.lookup(trial.data.dataset).channels
    if guided > channels:
        raise ConfigError(
            f"evaluate.guidance_channels: {guided} are more than the {channels} of '{trial.data.dataset}'; allowed: 0 "
            f"(all) to {channels}"
        )


def facts(trial: Trial, digest: str, device: str) -> dict[str, Any]:
    """The params of `record.PARAMS`: what is known of a trial besides its settings."""
    priced = cost(trial)
    return {
        "model.name": trial.model.name,
        "model.size": trial.model.size,
        "model.tokens": priced.tokens,
        "model.params_m": priced.params / 1e6,
        "model.gflops": priced.gflops,
        "train_gflops_total": priced.train_gflops(trial.train.steps * trial.train.batch),
        "data.digest": digest,
        "evaluate.split": SPLIT,
        "train.arithmetic": str(hardware.arithmetic(trial.train.precision, device)).removeprefix("torch."),
        "evaluate.calls": samplers.calls(trial.evaluate),
    }


def bench(trial: Trial, place: Place) -> Bench:
    """What the trial is measured against. Raises ConfigError if the data cannot be had."""
    name = trial.data.dataset
    real = datasets.reference(name, trial.evaluate.reference, place.data)
    held_out = datasets.load(name, "test", place.data)
    return Bench(trial, real, held_out, place.data, place.cache)


def run(trial: Trial, sink: Sink, place: Place, device: str, progress: Callable[[dict], None] = lambda _: None) -> None:
    """Train and measure, resuming from the trial's checkpoint if there is one.

    `progress` is told images seen, the share of the trial's work done and the newest metrics, at each log and after
    each evaluation.
    Raises Diverged if the loss leaves the finite numbers.
    """
    judge = Judge(trial, sink, place, device)
    dataset, priced = judge.dataset, judge.priced
    state = State(build(trial.model, *interface(trial), seed=trial.seed), trial, device, judge.dtype)
    clock = Clock()
    digest = judge.against.real.digest
    saved = checkpoint.load(place.checkpoint(trial), device)
    if saved and saved.get("digest") == digest:
        state.load_state_dict(saved["state"])
        clock.trained = saved["trained"]

    images = datasets.load(trial.data.dataset, "train", place.data).first(trial.data.images, device)
    every = -(-trial.train.steps // LOGS)
    compiled = hardware.compile_pays(priced.train_gflops(trial.train.images), device)

    def tell(seen: int, evaluations: int, metrics: dict[str, float]) -> None:
        # "share" and not "done", which Tune takes for the end of the trial.
        progress({"images": seen, "share": work(trial, seen, evaluations) / work(trial)} | metrics)

    window: list[Step] = []
    clock.start()
    for step in steps(state, trial, images, dataset.classes, compiled):
        window.append(step)
        measure = step.images in trial.cadence
        late = min(clock.since_lap(), clock.since_save()) > CHECKPOINT_SECONDS
        if measure or late or step.step % every == 0:
            metrics = summary(window)
            metrics |= clock.lap(len(window) * trial.train.batch)
            sink.log(step.images, metrics)
            tell(step.images, sum(mark < step.images for mark in trial.cadence), metrics)
            window = []
        if measure:
            metrics = judge.measure(state.ema_weights(), step.images)
            tell(step.images, sum(mark <= step.images for mark in trial.cadence), metrics)
        if measure or (not window and clock.since_save() > CHECKPOINT_SECONDS):  # only what was found to be finite
            checkpoint.save(
                place.checkpoint(trial), {"state": state.state_dict(), "trained": clock.trained, "digest": digest}
            )
            clock.saved()
    send_weights(sink, state.ema_weights(), trial)
    place.checkpoint(trial).unlink(missing_ok=True)


def measure(
    trial: Trial, weights: Path, sink: Sink, place: Place, device: str,
    progress: Callable[[dict], None] = lambda _: None,
) -> None:  # fmt: skip
    """Measure what another trial trained, from its EMA weights (safetensors): the last evaluation of `run` alone."""
    images = trial.cadence[-1]
    metrics = Judge(trial, sink, place, device).measure(load_file(weights), images)
    progress({"images": images, "share": 1.0} | metrics)
    place.checkpoint(trial).unlink(missing_ok=True)  # it may have begun to train before the weights were there


class Judge:
    """What measures a trial's models: the real images' statistics, a model to load weights into, and the sink."""

    def __init__(self, trial: Trial, sink: Sink, place: Place, device: str):
        torch.set_float32_matmul_precision("high")
        self.trial, self.sink, self.device = trial, sink, device
        self.against = bench(trial, place)  # which makes a dataset of latents known
        self.dataset, self.priced = datasets.lookup(trial.data.dataset), cost(trial)
        self.against.prepare(device)
        self.dtype = hardware.arithmetic(trial.train.precision, device)
        self.net = build(trial.model, *interface(trial), seed=None).to(device, self.dtype).eval()

    def measure(self, weights: dict[str, Tensor], images: int) -> dict[str, float]:
        """Evaluate and log; `weights` is the EMA by parameter name after `images` seen."""
        from harness.metrics.base import Subject
        from harness.metrics.registry import evaluate  # takes seconds, which the first step need not wait for

        self.net.load_state_dict(weights)
        started = time.perf_counter()
        metrics, sheet = evaluate(Subject(self.net, self.trial, self.device), self.against)
        metrics |= spent(self.priced.train_gflops(images)) | {"eval_seconds": time.perf_counter() - started}
        self.sink.log(images, metrics)
        send_sheet(self.sink, sheet, images)
        return metrics


class Clock:
    """Seconds of training, without evaluations and checkpoints."""

    def __init__(self):
        self.trained = 0.0
        self.saved()

    def start(self) -> None:
        self._from = time.perf_counter()

    def lap(self, images: int) -> dict[str, float]:
        seconds = time.perf_counter() - self._from
        self.start()
        self.trained += seconds
        return {"images_per_second": images / seconds, "train_seconds": self.trained}

    def since_lap(self) -> float:
        return time.perf_counter() - self._from

    def since_save(self) -> float:
        return time.perf_counter() - self._save

    def saved(self) -> None:
        """Not training either: the next lap starts here."""
        self.start()
        self._save = self._from


def summary(window: list[Step]) -> dict[str, float]:
    """Mean losses over the steps since the last log. Raises Diverged at the first that is not finite."""
    losses = torch.stack([step.loss for step in window])  # (n,)
    check_finite(losses, window[-1].step)
    means = {"loss": float(losses.mean()), "mse": float(torch.stack([step.mse for step in window]).mean())}
    if window[0].vb is not None:
        means["vb"] = float(torch.stack([step.vb for step in window]).mean())
    return means


def spent(train_gflops: float) -> dict[str, float]:
    return {"train_gflops": train_gflops, "log10_train_gflops": float(torch.tensor(train_gflops).log10())}


def send_sheet(sink: Sink, sheet: Tensor, images: int) -> None:
    """Send a sheet of samples, uint8 (rows*S, columns*S, 3), as a PNG named by images seen; small ones are enlarged."""
    picture = Image.fromarray(sheet.numpy())
    zoom = 2 if picture.width <= 1024 else 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{images:010d}.png"
        picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST).save(path)
        sink.file(path, record.SAMPLES)


def send_weights(sink: Sink, weights: dict[str, Tensor], trial: Trial) -> None:
    """Send the EMA weights (fp32 safetensors) and the settings they were trained with."""
    with tempfile.TemporaryDirectory() as folder:
        path, config = Path(folder) / "ema.safetensors", Path(folder) / "config.json"
        save_file({name: w.cpu().contiguous() for name, w in weights.items()}, path)
        config.write_text(json.dumps(trial.model_dump(), indent=2))
        for file in (path, config):
            sink.file(file, record.WEIGHTS)
