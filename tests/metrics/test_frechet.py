"""The Frechet distance: against torch-fidelity's general form, and where the answer is known."""

import pytest
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from harness.metrics import frechet


def features(count, width, seed, scale=1.0):
    """Correlated features (N, F) in fp32."""
    rng = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, width, generator=rng) @ torch.randn(width, width, generator=rng)
    return scale * mixed + torch.randn(width, generator=rng)


def gaussian(values):
    found = fid_features_to_statistics(values)
    return torch.from_numpy(found["mu"]), torch.from_numpy(found["sigma"])


@pytest.mark.parametrize(("count", "width"), [(30, 50), (50, 50), (51, 50), (400, 50), (4, 50), (7, 2)])
@pytest.mark.parametrize("reference", [300, 20])
def test_it_is_torch_fidelity_s(count, width, reference):
    ours, theirs = features(count, width, 0, 1.3), features(reference, width, 1)
    expected = fid_statistics_to_metric(fid_features_to_statistics(ours), fid_features_to_statistics(theirs), False)
    assert frechet.distance(ours, *gaussian(theirs)) == pytest.approx(expected[KEY_METRIC_FID], rel=1e-5)


@pytest.mark.parametrize("count", [20, 200])
def test_a_set_is_at_no_distance_from_itself(count):
    values = features(count, 50, 0)
    assert abs(frechet.distance(values, *gaussian(values))) < 1e-4 * values.var(0).sum()


def test_gaussians_that_differ_by_a_shift_and_a_scale_are_as_far_as_they_say():
    """Of N(m, s^2 C) and N(0, C): |m|^2 + (s - 1)^2 tr C."""
    values = features(500, 8, 0)
    mean, covariance = values.double().mean(0), values.double().T.cov()
    moved = 3 * (values.double() - mean) + 2 + mean
    assert frechet.distance(moved, mean, covariance) == pytest.approx(8 * 4 + 4 * covariance.trace().item(), rel=1e-9)
