"""One network in every parametrisation: the held-out loss that compares objectives is the same for all of them."""

import pytest
import torch
from made_up import DISCRETE, WRITTEN, levels, made, network

from harness.metrics import diffusion_loss
from harness.metrics.base import Subject
from harness.trial import bench

STEPS = torch.tensor([960, 850, 740, 620, 500, 370, 240, 120, 20])  # of the linear process, from noise to image
LEVELS = tuple(made("noise").process.log_snr[STEPS].tolist())


def believe(z, a, b, y):
    """The image that a made-up network sees, which takes what is noise for a function of level and shape of z alone."""
    size = (a**2 + b**2).sqrt()
    guess = torch.tanh(2 * z / size + (a**2 / b**2).log() / 5 + y[:, None, None, None])
    return (z - b * guess) / a


def found(name, tiny, place):
    """The metrics of that network under an objective."""
    cell = tiny(diffusion__objective=name, evaluate__val_images=20)
    against = bench(cell, place)
    subject = Subject(network(name, believe), cell, "cpu")
    return dict(diffusion_loss.diffusion_loss(subject, against, None))


@pytest.fixture
def at_steps(monkeypatch):
    """Levels that the discrete process has steps at, so that its nearest ones are the same levels for all."""
    monkeypatch.setattr(diffusion_loss, "LOG_SNR", LEVELS)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_levels_are_the_same_for_all(name):
    a, b = levels(name, made(name).nearest(torch.tensor(LEVELS, dtype=torch.float64)))
    torch.testing.assert_close((a**2 / b**2).log().flatten(), torch.tensor(LEVELS).double(), atol=1e-5, rtol=0)
    assert LEVELS[0] < -8 and LEVELS[-1] > 5


@pytest.mark.usefixtures("at_steps")
@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "noise"])
def test_the_diffusion_loss_of_a_network_is_the_same_whatever_it_puts_out(name, tiny, place):
    ours, plain = (found(each, tiny, place) for each in (name, "noise"))
    assert set(ours) == set(plain) == {
        "diffusion_loss", *(f"{part}_mse/{level}" for part in ("noise", "image") for level in LEVELS)
    }  # fmt: skip
    for key, value in plain.items():
        assert ours[key] == pytest.approx(value, rel=1e-4), key
    assert min(plain.values()) > 0


@pytest.mark.usefixtures("at_steps")
@pytest.mark.parametrize("name", WRITTEN)
def test_errors_of_noise_and_image_differ_by_the_signal_to_noise_ratio(name, tiny, place):
    """z says both, so (a / b)^2 times the image's error is the noise's; the loss is the integral, by trapezoids."""
    ours = found(name, tiny, place)
    noise = [ours[f"noise_mse/{level}"] for level in LEVELS]
    for level, error in zip(LEVELS, noise, strict=True):
        ratio = torch.tensor(level, dtype=torch.float64).exp().item()
        assert error == pytest.approx(ratio * ours[f"image_mse/{level}"], rel=1e-4)
    area = sum((noise[i] + noise[i + 1]) / 2 * (LEVELS[i + 1] - LEVELS[i]) for i in range(len(LEVELS) - 1))
    assert ours["diffusion_loss"] == pytest.approx(area / 2, rel=1e-6)
    assert max(noise) > 1.2 * min(noise)


@pytest.mark.parametrize("name", DISCRETE)
def test_an_objective_is_asked_at_the_step_that_is_nearest(name, tiny, place):
    """At the levels of the record, which steps only lie close to, the integral is still the same to a percent."""
    ours, plain = (found(each, tiny, place)["diffusion_loss"] for each in (name, "flow"))
    assert ours == pytest.approx(plain, rel=0.01)
