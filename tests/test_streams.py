"""Random streams: what is drawn is a function of what it is for, in whatever portions it is asked for."""

import subprocess
import sys

import pytest
import torch

from harness.streams import BLOCK, Noise, generator

SHAPE = (2, 3)


def drawn(start, count, *keys, calls=1):
    fresh = Noise(SHAPE, start, count, "cpu", *(keys or ("here",)))
    return torch.stack([fresh() for _ in range(calls)])  # (calls, count, 2, 3)


def test_streams_are_their_own():
    def first(*keys):
        return torch.rand(1, generator=generator("cpu", *keys)).item()

    assert first("batch", 0, 1) == first("batch", 0, 1)
    assert len({first("batch", seed, at) for seed in range(10) for at in range(10)} | {first("epoch", 0, 1)}) == 101
    assert first("a", 11) != first("a", 1, 1) != first("a1", 1)


def test_a_stream_is_the_same_in_another_process():
    code = (
        "import torch; from harness.streams import *; print(torch.rand(1, generator=generator('cpu', 'a', 1)).item())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(other.stdout) == torch.rand(1, generator=generator("cpu", "a", 1)).item()


@pytest.mark.parametrize("count", [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("start", [0, 1, 40, BLOCK - 1, BLOCK, 100, 5 * BLOCK + 3])
def test_an_item_has_the_same_noise_in_whatever_batch_it_comes(start, count):
    """Batches that begin and end inside a block, at its edges and across several; later calls too."""
    whole = drawn(0, 9 * BLOCK, calls=3)
    assert torch.equal(drawn(start, count, calls=3), whole[:, start : start + count])


def test_batches_of_any_size_are_parts_of_one_sequence():
    whole = drawn(0, 200, calls=2)
    for size in (1, 8, 50, 128):
        parts = [drawn(at, min(size, 200 - at), calls=2) for at in range(0, 200, size)]
        assert torch.equal(torch.cat(parts, dim=1), whole)


def test_each_call_goes_on_and_no_two_items_calls_or_keys_are_alike():
    values = torch.cat([drawn(0, 150, *keys, calls=3) for keys in (("a",), ("b",), ("a", 0), ("a", 1))])
    assert len(values.flatten(0, 1).unique(dim=0)) == 4 * 3 * 150
    assert torch.equal(drawn(0, 150, "a", calls=3), values[:3])


def test_it_is_standard_normal_of_the_shape_that_is_asked():
    values = drawn(30, 20_000)[0]
    assert values.shape == (20_000, *SHAPE) and values.dtype == torch.float32
    assert values.mean().item() == pytest.approx(0, abs=4 / 120_000**0.5)
    assert values.std().item() == pytest.approx(1, abs=0.01)
    within = values.flatten(1) - values.mean()
    assert (within.T @ within / 20_000 - torch.eye(6)).abs().max() < 0.05  # no two values of an item go together
    assert (within[1:] * within[:-1]).mean().abs() < 0.02  # nor two items that follow each other


def test_it_is_drawn_on_the_processor_for_every_device():
    """Moved only then, so that a GPU's samples start from the same noise."""
    assert Noise(SHAPE, 0, 3, "meta", "here")().device.type == "meta"
    assert {stream.device.type for stream in Noise(SHAPE, 0, 200, "meta", "here").streams} == {"cpu"}


def test_the_global_stream_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    drawn(0, 10)
    assert torch.equal(torch.get_rng_state(), before)
