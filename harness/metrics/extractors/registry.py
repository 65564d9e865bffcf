"""Feature extractors for FID and its relatives, by name.

`lite0` needs no download (see `lite0.py`). `inception` is torch-fidelity's port of the network that the paper's
numbers use; its weights are read from the data folder, or fetched into it.
"""

from pathlib import Path

from harness.errors import ConfigError
from harness.metrics.extractors.base import Extractor
from harness.naming import choose


def _lite0() -> str:
    from harness.metrics.extractors.lite0 import register

    return register()


def _inception() -> str:
    from harness.metrics.extractors.inception import register

    return register()


def _inception_weights(folder: Path) -> Path:
    """Raises ConfigError if the file is neither at hand nor to be had."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

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


EXTRACTORS = {
    "lite0": Extractor(_lite0, lambda folder: None),
    "inception": Extractor(_inception, _inception_weights),
}


def lookup(name: str) -> Extractor:
    """Raises ConfigError for an unknown extractor."""
    return choose("evaluate.extractor", name, EXTRACTORS)
