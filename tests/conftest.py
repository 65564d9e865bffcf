"""A tiny dataset and a tiny feature extractor, entered in the registries, on which a whole trial takes a moment."""

import numpy as np
import pytest
import torch
import torch_fidelity
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from harness.config import Trial, make
from harness.data import registry as datasets
from harness.data.base import SPLITS, Dataset
from harness.data.registry import DATASETS
from harness.metrics.extractors.base import SPATIAL, Extractor
from harness.metrics.extractors.registry import EXTRACTORS
from harness.trial import Place

torch.set_num_threads(1)  # these tensors are too small to share, and a busy machine makes sharing dear

COUNTS = {"train": 60, "test": 20}
FIELDS = {
    "model.size": "1x32x2", "model.patch": 4, "data.dataset": "tiny", "train.images": 128, "train.batch": 8,
    "train.lr": 1e-3, "train.precision": "fp32", "evaluate.points": 2, "evaluate.samples": 16,
    "evaluate.reference": 32, "evaluate.sampler": "ddim", "evaluate.steps": 2, "evaluate.extractor": "tiny",
    "evaluate.val_images": 10,
}  # fmt: skip


def pictures(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 16, 16) and labels (N,): a bright bar whose place is the class, in some noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 60, (count, 1, 16, 16))
    for image, label in zip(images, labels, strict=True):
        image[0, :, 5 * label : 5 * label + 5] += 180
    return images.astype(np.uint8), labels.astype(np.int64)


class Pooled(torch_fidelity.FeatureExtractorBase):
    """Four features and four logits, the means of an image's quarters; sixteen spatial ones, of its sixteenths."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list():
        return "4", "logits", SPATIAL

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "logits" if metric == "isc" else "4"

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, images):
        grey = images.float().mean(1, keepdim=True) / 64
        means, places = (torch.nn.functional.adaptive_avg_pool2d(grey, side).flatten(1) for side in (2, 4))
        return tuple({"4": means, "logits": means, SPATIAL: places}[name] for name in self.features_list)


def _register() -> str:
    if "tiny-pooled" not in FEATURE_EXTRACTORS_REGISTRY:
        torch_fidelity.register_feature_extractor("tiny-pooled", Pooled)
    return "tiny-pooled"


@pytest.fixture
def tiny(monkeypatch):
    """`tiny(train__lr=1e-2)` is a small trial on the dataset 'tiny': 1x16x16, three classes, 60 and 20 images."""
    entry = Dataset(
        name="tiny", channels=1, side=16, classes=3, bounded=True, class_names=(), digest="",
        decode=lambda folder: {split: pictures(seed, COUNTS[split]) for seed, split in enumerate(SPLITS)},
    )  # fmt: skip
    monkeypatch.setitem(DATASETS, "tiny", entry)
    monkeypatch.setitem(EXTRACTORS, "tiny", Extractor(_register, lambda folder: None))
    datasets._splits.cache_clear()

    def trial(**changes) -> Trial:
        return make(FIELDS | {name.replace("__", "."): value for name, value in changes.items()})

    yield trial
    datasets._splits.cache_clear()


@pytest.fixture
def place(tmp_path) -> Place:
    """Empty folders for data and results."""
    return Place(tmp_path / "data", tmp_path / "out")
