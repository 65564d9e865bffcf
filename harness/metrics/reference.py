"""What models are measured against: the real images and their statistics.

The statistics are made before training starts, once per (dataset content, split, side, count, extractor). Extraction
and its cache are torch-fidelity's, which is imported where they are made: it takes seconds, in which trials that find
them made can be training.
"""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from harness.config import Trial
from harness.data import registry as datasets
from harness.data.base import Images, to_rgb
from harness.metrics import frechet
from harness.metrics.extractors import registry as extractors
from harness.metrics.extractors.base import SPATIAL

if TYPE_CHECKING:
    from torch_fidelity import FeatureExtractorBase

SPLIT = "train"  # the real images of every distance, as in the paper


class Reals(TorchDataset):
    """Real images `start` to `start + count`, or as far as there are so many, as uint8 RGB."""

    def __init__(self, images: Images, count: int, start: int = 0):
        self.images, self.start, self.count = images.images, start, max(0, min(count, len(images) - start))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        return to_rgb(self.images[self.start + i])


@dataclass(frozen=True)
class Bench:
    """What evaluations are measured against: the real images, the folders of data and of cached statistics."""

    trial: Trial
    real: Images
    held_out: Images
    folder: Path
    cache: Path

    @property
    def name(self) -> str:
        """Of the real side in the cache: all that its features depend on beside the extractor."""
        side = self.real.images.shape[-1]
        name = datasets.lookup(self.trial.data.dataset).name  # of outside data it is shorter than the setting
        return f"{name}-{self.real.digest[:16]}-{SPLIT}-{side}px-{len(self.reals)}"

    @property
    def reals(self) -> Reals:
        return Reals(self.real, self.trial.evaluate.reference)

    def check(self) -> None:
        """Raises ConfigError for an unknown extractor, or for weights that cannot be had."""
        extractors.lookup(self.trial.evaluate.extractor).weights(self.folder)

    @property
    def settings(self) -> dict:
        """torch-fidelity's settings for the real side, its own input2, with a cache name that says all of it."""
        extractor = extractors.lookup(self.trial.evaluate.extractor)
        weights = extractor.weights(self.folder)
        return {
            "input2": self.reals,
            "input2_cache_name": self.name,
            "cache_root": str(self.cache),
            "feature_extractor": extractor.register(),
            "feature_extractor_weights_path": str(weights) if weights else None,
            "save_cpu_ram": True,  # no loader processes: the images are already in memory
            "verbose": False,
        }

    def extractor(self, device: str) -> "FeatureExtractorBase":
        """The feature extractor on `device`, with every layer that a metric reads."""
        from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
        from torch_fidelity.utils import create_feature_extractor

        settings = self.settings
        kind = FEATURE_EXTRACTORS_REGISTRY[settings["feature_extractor"]]
        layers = {kind.get_default_feature_layer_for_metric(metric) for metric in ("fid", "kid", "isc", "prc")}
        layers |= {SPATIAL} & set(kind.get_provided_features_list())
        return create_feature_extractor(settings["feature_extractor"], sorted(layers), device == "cuda", **settings)

    def reference(
        self, extractor: "FeatureExtractorBase", device: str
    ) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """Of the real images, by layer: features (N, F); mean (F,) and covariance (F, F) where a distance needs them.

        From the cache, or made and put there.
        """
        from torch_fidelity.metric_fid import fid_featuresdict_to_statistics_cached
        from torch_fidelity.utils import extract_featuresdict_from_input_id_cached

        settings = self.settings | {"cuda": device == "cuda"}
        features = extract_featuresdict_from_input_id_cached(2, extractor, **settings)
        gaussians = {}
        for layer in {extractor.get_default_feature_layer_for_metric("fid"), SPATIAL} & features.keys():
            found = fid_featuresdict_to_statistics_cached(
                features, settings["input2_cache_name"], extractor, layer, **settings
            )
            gaussians[layer] = (torch.from_numpy(found["mu"]), torch.from_numpy(found["sigma"]))
        return features, gaussians

    def prepare(self, device: str = "cpu") -> None:
        """Make or find the statistics of the real images, so that nothing about them can fail after training.

        Raises ConfigError for an unknown extractor or weights that cannot be had.
        """
        self.check()
        made = self.cache / f"{self.name}-{self.trial.evaluate.extractor}.json"  # names of the files it consists of
        whole = made.exists() and all((self.cache / name).exists() for name in json.loads(made.read_text()))
        if whole and self._floor.exists():
            return
        with contextlib.redirect_stdout(io.StringIO()):
            extractor = self.extractor(device)
            _, gaussians = self.reference(extractor, device)
            self.floor(extractor, gaussians, device)
        files = self.cache.glob(f"{self.name}-{extractor.get_name()}-*")
        made.write_text(json.dumps(sorted(path.name for path in files)))

    def floor(
        self, extractor: "FeatureExtractorBase", gaussians: dict[str, tuple[Tensor, Tensor]], device: str
    ) -> float | None:
        """The FID of as many real training images as there are samples, none of them of the reference.

        What a perfect model would have; None where there are not so many. From the cache, or made and put there.
        """
        from torch_fidelity.utils import extract_featuresdict_from_input_id_cached

        if self._floor.exists():
            return json.loads(self._floor.read_text())
        count, found = self.trial.evaluate.samples, None
        others = Reals(self.real, count, start=len(self.reals))
        if len(others) == count:
            settings = self.settings | {"input1": others, "cuda": device == "cuda"}
            layer = extractor.get_default_feature_layer_for_metric("fid")
            features = extract_featuresdict_from_input_id_cached(1, extractor, **settings)
            found = frechet.distance(features[layer], *gaussians[layer])
        self._floor.parent.mkdir(parents=True, exist_ok=True)
        self._floor.write_text(json.dumps(found))
        return found

    @property
    def _floor(self) -> Path:
        return self.cache / f"{self.name}-{self.trial.evaluate.extractor}-floor-{self.trial.evaluate.samples}.json"
