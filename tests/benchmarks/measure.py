"""Seconds and bytes: callables timed in turn, commands timed in processes of their own."""

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.launch.cluster import MALLOC, cpus

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
CPUS = cpus()
KEPT = all(os.environ.get(name) == value for name, value in MALLOC.items())
ALLOCATOR = "both sides with the workers' allocator settings" if KEPT else "both sides with the default allocator"


def interleaved(calls: dict[str, Callable], rounds: int = ROUNDS, least: float = 0.0) -> dict[str, float]:
    """Median seconds of one call of each, after a call that is not counted.

    Each round goes through all of them, so that whatever else the machine does meets them alike. A measurement repeats
    its call until it takes about `least` seconds.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, math.ceil(least / seconds(call))) if least else 1
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(seconds(call, repeats[name]))
    return {name: statistics.median(each) for name, each in found.items()}


def seconds(call: Callable, repeats: int = 1) -> float:
    """Of one call, the mean of `repeats`."""
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch on that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Finished:
    """A command that ended well."""

    started: float  # seconds since 1970
    seconds: float
    gib: float  # peak memory of its largest process


def python(*arguments: str) -> Finished:
    """Run `python arguments` as from a shell with no settings. Fails the test, with its output, if it does."""
    ours = {*MALLOC, "MLFLOW_TRACKING_URI", "RAY_ADDRESS"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "meter.json"
        meter = [sys.executable, "-S", str(Path(__file__).with_name("meter.py")), str(file)]
        done = subprocess.run(
            [*meter, sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        told = json.loads(file.read_text())
    assert told.pop("code") == 0, f"{' '.join(arguments)}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return Finished(**told)
