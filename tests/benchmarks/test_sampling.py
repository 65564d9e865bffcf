"""Images sampled a second against diffusers' DiTPipeline, and what sampling in bf16 does to FID."""

from dataclasses import dataclass

import pytest
import torch
from measure import ALLOCATOR, CPUS, ROUNDS, interleaved, threads
from ours import arithmetic, model, trained, trial
from rivals import NULL, pipeline

from harness.config import SCALES
from harness.metrics.base import Samples, Subject
from harness.metrics.fidelity import fidelity
from harness.metrics.reference import Bench

pytestmark = pytest.mark.benchmark

LARGEST = SCALES["cpu"].ladder[-1]
BATCH = 32
STREAM = 1_000_000  # samples from one stream of noise to the next


@pytest.mark.parametrize(
    ("size", "patch", "guidance", "count"),
    [("S", 4, 1.0, CPUS), (LARGEST, 2, 1.0, 1), (LARGEST, 2, 4.0, 1)],
    ids=["S", "largest", "guided"],
)
def test_sampling(size, patch, guidance, count, record):
    """The same classes, DDIM steps and clipping; tensors out on both sides."""
    cell = trial(size, patch, evaluate__guidance=guidance)
    subject = Subject(model(cell).to(arithmetic(cell)).eval(), cell, "cpu")
    rival, labels, steps = pipeline(cell), [i % 10 for i in range(BATCH)], cell.evaluate.steps
    latents = torch.zeros(BATCH, *subject.dataset.shape)
    calls = {
        "ours": lambda: subject.generate(0, BATCH),
        "theirs": lambda: rival(labels, guidance_scale=guidance, num_inference_steps=steps, output_type="pt"),
        "decoder": torch.no_grad()(lambda: rival.vae.decode(latents)),
    }
    with threads(count):
        taken = interleaved(calls)
    record(
        f"DiT-{size}/{patch}, DDIM {steps}, guidance {guidance:g}, batch {BATCH}", "images/s",
        BATCH / taken["ours"], BATCH / taken["theirs"], rounds=ROUNDS, threads=count,
        note=f"ours {arithmetic(cell)}; theirs DiTPipeline in fp32 with {NULL} classes, for its fixed null class; "
        f"its tiny autoencoder takes {taken['decoder'] / taken['theirs']:.1%} of it; {ALLOCATOR}",
    )  # fmt: skip


@dataclass
class Shifted(Subject):
    """The same model asked for other pictures: the noise depends on where in the sequence one starts."""

    by: int = 0  # samples, a multiple of the classes

    def generate(self, start: int, count: int) -> torch.Tensor:
        return super().generate(start + self.by, count)


def test_fid_of_bf16_samples(images, folders, record):
    """FID of bf16 samples, less that of fp32 samples of the same noise; other noise says how much is nothing."""
    cell = trial("3x112", 4, train__images=8_192, evaluate__samples=1_000)
    with threads(CPUS):
        weights = trained(cell, images)
        against = Bench(cell, images, images, folders.data, folders.cache)
        against.prepare()

        def fid(dtype: torch.dtype, by: int = 0) -> float:
            net = model(cell, seed=None)
            net.load_state_dict(weights)
            subject = Shifted(net.to(dtype).eval(), cell, "cpu", by)
            return dict(fidelity(subject, against, Samples(subject)))["fid"]

        found = {
            "bf16": fid(torch.bfloat16),
            "fp32": fid(torch.float32),
            "bf16, noise 2": fid(torch.bfloat16, STREAM),
            "bf16, noise 3": fid(torch.bfloat16, 2 * STREAM),
        }
    for other in ("fp32", "bf16, noise 2", "bf16, noise 3"):
        record(
            f"bf16 less {other}", "FID", found["bf16"] - found[other], rounds=1, threads=CPUS,
            note=f"{cell.model.name} after {cell.train.images:,} images, 1,000 samples: FID {found['bf16']:.2f} and "
            f"{found[other]:.2f}",
        )  # fmt: skip
