"""Random streams: functions of what they are for, never of what was drawn before."""

import hashlib

import torch
from torch import Tensor

BLOCK = 64  # items of a sequence that share a stream


def generator(device: str, *keys: int | str) -> torch.Generator:
    """A random stream of its own for each tuple of keys."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)


class Noise:
    """Standard normal noise for the items `start` to `start + count` of an endless sequence, new at each call.

    It is drawn on the CPU, in blocks of items with a stream each: so an item has the same noise on every device, in
    whatever batch it comes. Each call gives (count, *shape) on `device`.
    """

    def __init__(self, shape: tuple[int, ...], start: int, count: int, device: torch.device | str, *keys: int | str):
        first, last = start // BLOCK, -(-(start + count) // BLOCK)
        self.streams = [generator("cpu", *keys, block) for block in range(first, last)]
        self.shape, self.device = shape, device
        self.own = slice(start - first * BLOCK, start - first * BLOCK + count)

    def __call__(self) -> Tensor:
        blocks = [torch.randn((BLOCK, *self.shape), generator=stream) for stream in self.streams]
        return torch.cat(blocks)[self.own].to(self.device)
