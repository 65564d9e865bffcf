"""What training in bf16 does to the loss of a real run, beside what another seed does."""

import pytest
import torch
from measure import CPUS, threads
from ours import arithmetic, model, trial

from harness.config import change
from harness.data import registry as datasets
from harness.metrics.base import Samples, Subject
from harness.metrics.reference import Bench
from harness.metrics.val_loss import val_loss
from harness.training.loop import steps
from harness.training.state import State

pytestmark = pytest.mark.benchmark

SEEDS, WINDOWS = 3, 32


def test_loss_of_bf16_training(images, folders, record):
    """The same batches and noise in both arithmetics: curves of window means, and held-out loss at the end."""
    cell = trial("3x112", 4, train__images=16_384)
    held_out = datasets.load(cell.data.dataset, "test", folders.data)
    against = Bench(cell, images, held_out, folders.data, folders.cache)
    curves, ends = {}, {}
    with threads(CPUS):
        for precision in ("fp32", "bf16"):
            each = [_run(change(cell, train__precision=precision, seed=s), images, against) for s in range(SEEDS)]
            curves[precision], ends[precision] = (torch.stack(part) for part in zip(*each, strict=True))
    for name, found in (("loss, mean of a window", curves), ("held-out loss of the EMA", ends)):
        gap = (found["bf16"] - found["fp32"]).abs()  # by seed, and by window of the curve
        spread = found["fp32"].std(0).mean()  # over seeds
        record(
            f"{name}, bf16 less fp32 at most", "of the seeds' s.d.", float(gap.max() / spread),
            rounds=SEEDS, threads=CPUS,
            note=f"{cell.model.name}, {cell.train.images:,} images, {WINDOWS} windows, {SEEDS} seeds, "
            f"{arithmetic(change(cell, train__precision='bf16'))}: mean gap {float(gap.mean()):.2g}, mean s.d. of the "
            f"seeds {float(spread):.2g}, in the end {float(found['bf16'][..., -1].mean()):.4f} and "
            f"{float(found['fp32'][..., -1].mean()):.4f}",
        )  # fmt: skip
        assert gap.mean() < spread


def _run(cell, images, against) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of the loss over windows (WINDOWS,), and the held-out loss after it (1,)."""
    state = State(model(cell, cell.seed), cell, "cpu", arithmetic(cell))
    losses = torch.stack([step.loss for step in steps(state, cell, images, datasets.lookup(cell.data.dataset).classes)])
    net = model(cell, seed=None)
    net.load_state_dict(state.ema_weights())
    subject = Subject(net.to(arithmetic(cell)).eval(), cell, "cpu")
    end = dict(val_loss(subject, against, Samples(subject)))["val_loss"]
    return losses.double().unflatten(0, (WINDOWS, -1)).mean(1), torch.tensor([end], dtype=torch.float64)
