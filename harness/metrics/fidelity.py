"""FID and its relatives, in the features of one extractor.

Samples stream from the model into the extractor, once for all metrics, with no image files in between. Extraction and
the metrics of features are torch-fidelity's.
"""

from collections.abc import Iterator

from torch_fidelity import (
    KEY_METRIC_ISC_MEAN,
    KEY_METRIC_KID_MEAN,
    KEY_METRIC_PRECISION,
    KEY_METRIC_RECALL,
)
from torch_fidelity.metric_isc import isc_featuresdict_to_metric
from torch_fidelity.metric_kid import kid_featuresdict_to_metric
from torch_fidelity.metric_prc import prc_featuresdict_to_metric
from torch_fidelity.utils import extract_featuresdict_from_input_id_cached

from harness.metrics import frechet
from harness.metrics.base import Samples, Subject
from harness.metrics.extractors.base import SPATIAL
from harness.metrics.reference import Bench

KID_SUBSETS = 50
SPLIT_IMAGES = 5_000  # of an Inception Score, which is the mean over splits, as in ADM's evaluation


def fidelity(subject: Subject, bench: Bench, samples: Samples) -> Iterator[tuple[str, float]]:
    """FID, sFID, KID, Inception Score, precision and recall of `evaluate.samples` generated images.

    As ADM's evaluation (arXiv 2105.05233), whose numbers the paper reports, but for the real side: its FID knows the
    whole training set, where here it is `evaluate.reference` images of it. sFID (Nash et al., arXiv 2103.03841) is the
    FID of features that still know where in the image they are; it is absent where the extractor has no layer
    `SPATIAL`.
    """
    settings = bench.settings
    settings |= {
        "input1": samples, "batch_size": samples.batch, "cuda": subject.device == "cuda",
        "kid_subsets": KID_SUBSETS, "kid_subset_size": min(500, len(samples), len(settings["input2"])),
        "isc_splits": max(1, len(samples) // SPLIT_IMAGES),
        "samples_shuffle": False,
    }  # fmt: skip
    extractor = bench.extractor(subject.device)
    fake = extract_featuresdict_from_input_id_cached(1, extractor, **settings)
    real, gaussians = bench.reference(extractor, subject.device)
    layer = extractor.get_default_feature_layer_for_metric
    yield "fid", frechet.distance(fake[layer("fid")], *gaussians[layer("fid")])
    if SPATIAL in fake:
        yield "sfid", frechet.distance(fake[SPATIAL], *gaussians[SPATIAL])
    if (floor := bench.floor(extractor, gaussians, subject.device)) is not None:
        yield "fid_floor", floor
    yield "kid", kid_featuresdict_to_metric(fake, real, layer("kid"), **settings)[KEY_METRIC_KID_MEAN]
    yield "inception_score", isc_featuresdict_to_metric(fake, layer("isc"), **settings)[KEY_METRIC_ISC_MEAN]
    manifold = {name: features[: subject.trial.evaluate.manifold or None] for name, features in real.items()}
    inside = prc_featuresdict_to_metric(fake, manifold, layer("prc"), **settings)
    yield "precision", inside[KEY_METRIC_PRECISION]
    yield "recall", inside[KEY_METRIC_RECALL]
