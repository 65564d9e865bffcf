"""torch-fidelity's port of the Inception network, with the spatial features of sFID beside its own."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorBase, FeatureExtractorInceptionV3, register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from harness.errors import ConfigError
from harness.metrics.extractors.base import SPATIAL

NAME = "inception-v3-compat-spatial"
CHANNELS = 7  # of 17x17 maps: 2,023 features, about as many as the 2,048 that FID looks at


class Inception(FeatureExtractorBase):
    """The layers of `inception-v3-compat`, and `spatial` (N, 2023): the first 7 channels of `mixed_6/conv`, flattened.

    So defined by Nash et al. (arXiv 2103.03841) and measured by ADM's evaluation, whose numbers the paper reports. The
    port calls that layer Mixed_6d.branch1x1.
    """

    def __init__(self, name: str, features_list: list[str], **settings):
        super().__init__(name, features_list)
        own = [layer for layer in features_list if layer != SPATIAL]
        self.net = FeatureExtractorInceptionV3(name, own, **settings)
        self.net.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (*FeatureExtractorInceptionV3.get_provided_features_list(), SPATIAL)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return FeatureExtractorInceptionV3.get_default_feature_layer_for_metric(metric)

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        out = self.net.convert_features_tuple_to_dict(self.net(images))
        out[SPATIAL] = self.spatial
        return tuple(out[name] for name in self.features_list)

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.spatial = output[:, :CHANNELS].flatten(1).float()  # (N, 7, 17, 17) -> (N, 2023)


def weights(folder: Path) -> Path:
    """The file of its weights in the data folder, or fetched into it. Raises ConfigError if it cannot be had."""
    path = folder / Path(URL_INCEPTION_V3).name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), progress=False)
        except OSError as error:
            raise ConfigError(
                f"evaluate.extractor: 'inception' needs its weights at {path}, and they could not be downloaded "
                f"({error}); put the file there, or choose lite0"
            ) from None
    return path


def register() -> str:
    """Make the extractor known to torch-fidelity; returns its name there."""
    if NAME not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(NAME, Inception)
    return NAME
