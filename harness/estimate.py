"""What trials would take here, before they are run: hours and bytes, from a few real training steps.

Two small models are trained for a moment on this machine; a trial's cost is then a line in its Gflops. The Gflops are
exact and the seconds a forecast, usually within a third on a CPU.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from harness import hardware
from harness.config import Trial, base, make
from harness.cost import cost, interface, work
from harness.data import registry as datasets
from harness.data.base import Images
from harness.models.registry import build
from harness.training.loop import steps
from harness.training.state import State

PROBES = ("2x80", "4x208")  # at patch 4: far enough apart to tell the fixed cost of an image from that of its Gflops
METRIC_SECONDS = 9.0  # of an evaluation that do not depend on the model: extraction and distances at 1,000 samples
PROCESS_BYTES = 1.2e9  # a worker with torch, MLflow and the data in memory


@dataclass(frozen=True)
class Speed:
    """Seconds of training: `fixed` an image, plus `per_gflop` for each 1e9 forward multiply-adds of it."""

    fixed: float
    per_gflop: float

    def seconds(self, trial: Trial, trains: bool = True) -> float:
        """Training, sampling and metrics of a whole trial on one worker; without training if it measures alone."""
        images = trial.train.steps * trial.train.batch
        training = images * (self.fixed + cost(trial).gflops * self.per_gflop) if trains else 0.0
        sampling = work(trial, images=0) * self.per_gflop / 3
        return training + sampling + METRIC_SECONDS * len(trial.cadence) * max(1, trial.evaluate.samples / 1000)


def measure(cache: Path) -> Speed:
    """This machine's speed at one thread or one GPU, from `cache` if it was measured before."""
    device = hardware.device()
    dtype = hardware.arithmetic("auto", device)
    name = torch.cuda.get_device_name() if device == "cuda" else torch.cpu.get_capabilities().get("cpu_name", "cpu")
    path = cache / f"speed-{'-'.join(f'{name} {dtype}'.split()).replace('/', '-')}.json"
    if path.exists():
        return Speed(**json.loads(path.read_text()))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = [_seconds_an_image(size, device, dtype) for size in PROBES]
    finally:
        torch.set_num_threads(threads)
    (small, g_small), (large, g_large) = times
    slope = max(large - small, 0.1 * large) / (g_large - g_small)
    speed = Speed(fixed=max(0.0, small - slope * g_small), per_gflop=slope)
    if os.access(cache, os.W_OK):
        path.write_text(json.dumps(asdict(speed)))
    return speed


def _seconds_an_image(size: str, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Best of several training steps of a probe: seconds an image, and its Gflops."""
    trial = make(base("cpu", size, 4))
    dataset = datasets.lookup(trial.data.dataset)
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (256, *dataset.shape), dtype=torch.uint8, generator=rng).to(device)
    noise = Images(pixels, torch.zeros(256, dtype=torch.long, device=device), "")
    state = State(build(trial.model, *interface(trial)), trial, device, dtype)
    best, started = float("inf"), time.perf_counter()
    for n, step in enumerate(steps(state, trial, noise, dataset.classes)):
        step.loss.item()
        now = time.perf_counter()
        if n >= 2:
            best = min(best, now - started)
        started = now
        if n == 6:
            break
    return best / trial.train.batch, cost(trial).gflops


def memory(trial: Trial, device: str) -> float:
    """Bytes a training worker needs: weights, moments and EMA (26 to 32 a parameter), activations, the process."""
    priced, model = cost(trial), trial.model
    size = hardware.arithmetic(trial.train.precision, device).itemsize
    states = priced.params * (4 * 5 + 3 * size)  # master, EMA, two moments, fp32 gradient; weights, gradient, EMA model
    token = model.width * (14 + 4 * model.mlp_ratio)  # values kept for backward a token and block, attention apart
    scores = 0 if device == "cuda" else 3 * model.heads * priced.tokens  # flash attention keeps none
    activations = trial.train.batch * priced.tokens * model.depth * (token + scores) * size
    return states + activations + PROCESS_BYTES
