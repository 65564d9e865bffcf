"""Images trained on a second: against the loop one would write with diffusers, and against the matmul peak."""

import pytest
import torch
from measure import ALLOCATOR, CPUS, ROUNDS, interleaved, threads
from ours import arithmetic, training, trial
from rivals import EMBEDDERS, PlainLoop, assert_alike, loops

from harness.config import SCALES, change
from harness.cost import cost
from sweeps import sizes

pytestmark = pytest.mark.benchmark

LADDER = SCALES["cpu"].ladder
BATCH = SCALES["cpu"].fields["train.batch"]
LONG = 10**9  # images of a run, so that none ends while it is timed
CASES = {  # size, patch, batch, threads; trials of a sweep have one thread
    "S/4": ("S", 4, 64, CPUS),
    "6x192x3/4": ("6x192x3", 4, 128, CPUS),
    f"{LADDER[0]}/2": (LADDER[0], 2, BATCH, 1),
    f"{LADDER[-1]}/2": (LADDER[-1], 2, BATCH, 1),
}
SHAPES = (  # of matmuls (M, K) x (K, N)
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (8192, 512, 512),
    (16384, 384, 1536),
    (4096, 208, 832),
)
MATMULS = ("aten::mm", "aten::addmm", "aten::bmm")  # linear layers and their gradients, and attention
each_case = pytest.mark.parametrize(("size", "patch", "batch", "count"), CASES.values(), ids=CASES)


@each_case
def test_training(size, patch, batch, count, images, record):
    """Same images, batch, optimiser and loss on both sides."""
    cell = trial(size, patch, train__batch=batch, train__images=LONG)
    assert_alike(cell)
    with threads(count):
        taken = interleaved({"ours": training(cell, images), **loops(cell, images)}, least=0.5)
    mine = taken.pop("ours")
    for rival, theirs in taken.items():
        record(
            f"DiT-{size}/{patch}, batch {batch}, against {rival}", "images/s", batch / mine, batch / theirs,
            rounds=ROUNDS, threads=count, note=f"ours {_word(cell)}; {EMBEDDERS}; {ALLOCATOR}",
        )  # fmt: skip


@pytest.mark.parametrize("cell", sizes.trials("cpu"), ids=lambda cell: cell.model.name)
def test_training_every_cell_of_sizes(cell, images, record):
    """No cell of the main sweep is slower than the plain fp32 loop."""
    cell = change(cell, train__images=LONG)
    with threads(1):
        calls = {"ours": training(cell, images), "theirs": PlainLoop(cell, images).step}
        taken = interleaved(calls, least=0.5)
    batch = cell.train.batch
    row = record(
        f"{cell.model.name}, batch {batch}, against fp32", "images/s", batch / taken["ours"], batch / taken["theirs"],
        rounds=ROUNDS, threads=1, note=f"ours {_word(cell)}; {ALLOCATOR}",
    )  # fmt: skip
    assert row.ratio >= 1


@each_case
def test_training_share_of_peak(size, patch, batch, count, images, record):
    """Operations a second of training as a share of the best matmul in the same precision, measured between."""
    cell = trial(size, patch, train__batch=batch, train__images=LONG)
    dtype = arithmetic(cell)
    with threads(count):
        products = {shape: _product(shape, dtype) for shape in SHAPES}
        taken = interleaved({"training": training(cell, images), **products}, least=0.2)
    operations = 2 * 3 * cost(cell).gflops * batch  # two a multiply-add; backward is twice forward
    rates = {shape: 2 * shape[0] * shape[1] * shape[2] / 1e9 / taken[shape] for shape in SHAPES}
    best = max(rates, key=rates.get)
    record(
        f"DiT-{size}/{patch}, batch {batch}, against the best matmul", "Gflop/s", operations / taken["training"],
        rates[best], rounds=ROUNDS, threads=count,
        note=f"{_word(cell)}, best at {'x'.join(map(str, best))}; an operation is half a multiply-add",
    )  # fmt: skip


@each_case
def test_training_time_in_matmuls(size, patch, batch, count, images, record):
    """How much of a step is matmuls, which torch's library does: what is left is the most that a rewrite could save."""
    cell = trial(size, patch, train__batch=batch, train__images=LONG)
    with threads(count):
        step = training(cell, images)
        for _ in range(3):
            step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(5):
                step()
    taken = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    share = sum(taken[name] for name in MATMULS) / sum(taken.values())
    most = f"{_word(cell)}; with all else free a step would be {1 / share:.2f}x as fast"
    record(f"DiT-{size}/{patch}, batch {batch}", "share", share, rounds=1, threads=count, note=most)


def _product(shape, dtype):
    m, k, n = shape
    a, b, out = (torch.rand(size, dtype=dtype) for size in ((m, k), (k, n), (m, n)))
    return lambda: torch.mm(a, b, out=out)


def _word(cell) -> str:
    return str(arithmetic(cell)).removeprefix("torch.")
