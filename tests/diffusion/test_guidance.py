"""Classifier-free guidance: one call for both halves, and the same thing whatever the network puts out."""

import pytest
import torch
from made_up import WRITTEN, for_objective, levels, made, noise, oracle, times

from harness.diffusion.guidance import guided


def test_guidance_of_one_is_the_model_itself():
    assert guided(oracle, 9, 1) is oracle


@pytest.mark.parametrize("scale", [0.0, 1.5, 4.0])
@pytest.mark.parametrize("channels", [0, 1])
def test_guidance_extrapolates_from_the_null_class_in_one_call(scale, channels):
    calls = []

    def model(x, t, y):
        calls.append(len(x))
        return oracle(x, t, y)

    x, t, y = noise(3, 2, 4, 4), torch.tensor([5, 6, 7]), torch.tensor([0, 1, 2])
    with_class, without = oracle(x, t, y), oracle(x, t, torch.full((3,), 9))
    out = guided(model, 9, scale, channels)(x, t, y)
    n = channels or 2
    expected = (1 - scale) * without + scale * with_class
    torch.testing.assert_close(out[:, :n], expected[:, :n], atol=1e-6, rtol=1e-5)
    assert torch.equal(out[:, n:], with_class[:, n:])  # the other channels, and the covariance, are the class's own
    assert calls == [6]


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("scale", [0.0, 1.5, 4.0])
@pytest.mark.parametrize("channels", [0, 1])
def test_to_guide_the_output_is_to_guide_noise_and_image(name, scale, channels):
    """Every conversion is affine at one z and time, so it may be done before guiding or after."""
    t, y, own, model = times(name), torch.arange(9), made(name), for_objective(name)
    a, b = levels(name, t)
    z = ((a**2 + b**2).sqrt() * noise(9, 2, 4, 4)).float()
    with_class, without = (own.predict(model, z, t, label) for label in (y, torch.full((9,), 9)))
    found = own.predict(guided(model, 9, scale, channels), z, t, y)
    n = channels or 2
    for part, size in (("noise", 1 + a / b), ("x0", 1 + b / a)):  # what the other's rounding grows by
        mine, yes, no = (getattr(p, part) for p in (found, with_class, without))
        expected = torch.cat([no[:, :n] + scale * (yes - no)[:, :n], yes[:, n:]], dim=1)
        torch.testing.assert_close(mine / size, expected / size, atol=1e-5, rtol=0)
    assert (with_class.noise - without.noise).abs().max() > 0.1
    assert name != "ddpm" or torch.equal(found.fraction, with_class.fraction)
