"""What a dataset is, whatever it holds: what a model needs to know of it, and its images in memory."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

SPLITS = ("train", "test")
MANIFEST = "manifest.json"  # of a folder of latents
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # what a dataset may be called: its file or folder is too
NAMES = "letters, digits, '.', '_' and '-'"  # the same in words


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 pixels to float32 in [-1, 1], any shape; latents, which are floats, have their scale already."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Floats in [-1, 1] to the nearest uint8 pixel, any shape; what lies outside is clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_rgb(images: torch.Tensor) -> torch.Tensor:
    """(..., 1 or 3, H, W) to (..., 3, H, W): grey is repeated, without a copy."""
    return images.expand(*images.shape[:-3], 3, -1, -1)


@dataclass(frozen=True)
class Images:
    """A split in memory, shared by everyone in the process: not to be changed in place."""

    images: torch.Tensor  # (N, C, H, W) uint8, or anything that gives (C, H, W) for an index
    labels: torch.Tensor  # (N,) int64
    digest: str  # sha256 of the whole dataset's content, both splits

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int, device: str) -> "Images":
        """The first `count` (0: all), moved to the device once where it has memory of its own."""
        stop = count or len(self)
        return Images(self.images[:stop].to(device), self.labels[:stop].to(device), self.digest)

    def examples(
        self, chosen: torch.Tensor, mirrored: torch.Tensor | None, device: str, rng: torch.Generator
    ) -> torch.Tensor:
        """What is trained on, float32 (n, C, H, W): the images of indices (n,), flipped where `mirrored` (n,) says."""
        x = normalise(self.images[chosen].to(device, non_blocking=True))
        return x if mirrored is None else torch.where(mirrored[:, None, None, None], x.flip(-1), x)


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset without reading it."""

    name: str
    channels: int
    side: int  # pixels, or latent cells
    class_names: tuple[str, ...]  # empty where they are only numbers
    classes: int
    digest: str  # sha256 of the decoded content (`digest_of`); empty: trust the one kept in the Parquet file
    bounded: bool  # are the values pixels, in [-1, 1] when normalised? Latents are not
    decode: Callable[[Path], dict[str, tuple[np.ndarray, np.ndarray]]] | None  # folder -> split -> images, labels
    read: Callable[[Path], dict[str, Images]] | None = None  # folder -> split -> images, instead of a Parquet file
    to_pixels: Callable[[torch.Tensor], torch.Tensor] = to_uint8  # samples (N, C, H, W) -> uint8 pictures (N, K, S, S)
    flip: bool = True  # is a mirror image as likely as the image itself? Then training flips half of them

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.channels, self.side, self.side
