"""A whole evaluation against sampling to PNG files and giving torch-fidelity the folder."""

import contextlib
import io
import tempfile
from pathlib import Path

import pytest
import torch_fidelity
from measure import ALLOCATOR, CPUS, ROUNDS, interleaved, threads
from ours import arithmetic, model, trial
from rivals import pipeline

from harness.config import SCALES
from harness.metrics.base import BATCH, Subject
from harness.metrics.fidelity import KID_SUBSETS
from harness.metrics.reference import Bench
from harness.metrics.registry import evaluate

pytestmark = pytest.mark.benchmark

SAMPLES = 500


@pytest.mark.parametrize("size", [SCALES["cpu"].ladder[0], SCALES["cpu"].ladder[2]])
def test_evaluation(size, images, folders, record):
    """Sample, extract, compare: the same count, metrics, extractor and cached statistics of the real images."""
    cell = trial(size, 2, evaluate__samples=SAMPLES, evaluate__val_images=128)
    against = Bench(cell, images, images, folders.data, folders.cache)
    subject, rival = Subject(model(cell).to(arithmetic(cell)).eval(), cell, "cpu"), pipeline(cell)
    with threads(CPUS):
        against.prepare()
        calls = {"ours": lambda: evaluate(subject, against), "theirs": lambda: _by_files(rival, cell, against)}
        taken = interleaved(calls, rounds=min(3, ROUNDS))
    record(
        f"{cell.model.name}, {SAMPLES} samples, DDIM {cell.evaluate.steps}", "s", taken["ours"], taken["theirs"],
        rounds=min(3, ROUNDS), threads=CPUS,
        note=f"theirs: DiTPipeline in fp32, PNG files, torch-fidelity on the folder; ours ({arithmetic(cell)}) also "
        f"takes the held-out loss of 128 images; {ALLOCATOR}",
    )  # fmt: skip


def _by_files(rival, cell, against) -> dict[str, float]:
    """Every setting of torch-fidelity but the metrics and the real side is its own default."""
    settings = {k: v for k, v in against.settings.items() if k != "save_cpu_ram"}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        for start in range(0, SAMPLES, BATCH["cpu"]):
            labels = [i % 10 for i in range(start, min(SAMPLES, start + BATCH["cpu"]))]
            found = rival(labels, guidance_scale=1.0, num_inference_steps=cell.evaluate.steps)
            for i, image in enumerate(found.images):
                image.save(Path(folder) / f"{start + i:05d}.png")
        return torch_fidelity.calculate_metrics(
            input1=folder, fid=True, kid=True, isc=True, prc=True, kid_subsets=KID_SUBSETS, kid_subset_size=SAMPLES,
            isc_splits=1, cuda=False, **settings,
        )  # fmt: skip
