"""The discrete process: schedules and noise against diffusers, tables against Bayes' rule and against fp64."""

import pytest
import torch
from made_up import batch

from harness.diffusion.process import SCHEDULES, add_noise, predict_x0, process

LENGTHS = (1000, 250, 10, 2)


@pytest.mark.parametrize(
    ("name", "theirs", "first", "last"),
    [
        ("linear", "linear", 1e-4, 2e-2),
        ("scaled_linear", "scaled_linear", 0.00085, 0.012),
        ("cosine", "cos", None, 0.999),
    ],
)
def test_schedules_are_those_of_diffusers(name, theirs, first, last):
    from diffusers import DDPMScheduler

    ends = {"beta_start": first, "beta_end": last} if first else {}
    betas = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2" if theirs == "cos" else theirs, **ends).betas
    torch.testing.assert_close(SCHEDULES[name](1000).float(), betas, rtol=2e-5, atol=1e-7)
    assert SCHEDULES[name](1000)[-1].item() == pytest.approx(last)


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_goes_from_image_to_noise_at_any_length(name, steps):
    p = process(name, steps)
    assert ((p.abar > 0) & (p.abar < 1)).all() and (p.abar.diff() < 0).all()
    assert (p.log_beta.isfinite() & (p.log_beta < 0)).all()
    assert p.abar[-1] < 0.03
    for value in vars(p).values():
        assert value.isfinite().all() and len(value) == steps


@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_is_bayes_rule(name):
    """q(before | x, x0) is proportional to q(before | x0) q(x | before): two Gaussians multiplied."""
    p = process(name)
    abar = torch.cumprod(1 - SCHEDULES[name](1000), 0)
    before, beta = abar[:-1], 1 - abar[1:] / abar[:-1]
    precision = (1 - beta) / beta + 1 / (1 - before)
    torch.testing.assert_close(p.posterior_log_variance[1:], -precision.log().float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(p.posterior_x[1:], ((1 - beta).sqrt() / beta / precision).float(), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(
        p.posterior_x0[1:], (before.sqrt() / (1 - before) / precision).float(), atol=1e-7, rtol=1e-6
    )
    assert (p.posterior_x0[0], p.posterior_x[0]) == (1, 0)  # before the first step there is the image itself


@pytest.mark.parametrize("steps", [1000, 250, 7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_are_of_fp64_to_the_last_digit_of_fp32(name, steps):
    """Arithmetic on an fp32 abar, as it once was, loses the noise of the first steps: there 1 - abar is 1e-4."""
    p = process(name).respaced(steps)
    abar = torch.cumprod(1 - SCHEDULES[name](1000), 0)[p.timestep]
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    tables = {
        "signal": abar.sqrt(),
        "noise": (1 - abar).sqrt(),
        "signal_before": before.sqrt(),
        "noise_before": (1 - before).sqrt(),
    }
    for table, exact in tables.items():
        torch.testing.assert_close(getattr(p, table).double(), exact, rtol=1e-7, atol=0)
    torch.testing.assert_close(p.log_beta.double(), (1 - abar / before).log(), rtol=1e-7, atol=0)
    torch.testing.assert_close(p.log_snr, (abar / (1 - abar)).log(), rtol=1e-10, atol=1e-12)
    if name == "linear":
        old = (1 - abar.float()).sqrt().double()
        assert abs(old[0] / tables["noise"][0] - 1) > 5e-5


def test_noise_is_added_as_diffusers_does_and_can_be_taken_away():
    from diffusers import DDPMScheduler

    x0, index, eps = batch()
    x = add_noise(process(), x0, index, eps)
    torch.testing.assert_close(x, DDPMScheduler(1000).add_noise(x0, eps, index), atol=1e-5, rtol=0)
    torch.testing.assert_close(predict_x0(process(), x, index, eps), x0, atol=1e-4, rtol=0)


@pytest.mark.parametrize("steps", [1000, 250, 16, 7, 2, 1])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_respaced_process_is_as_noisy_as_the_whole_one_where_it_stops(name, steps):
    whole, short = process(name), process(name).respaced(steps)
    assert short.steps == len(short.timestep.unique()) == steps
    assert short.timestep[-1] == 999 and (steps == 1 or short.timestep[0] == 0)
    assert torch.equal(short.abar, whole.abar[short.timestep])
    rebuilt = torch.cumprod(1 - short.log_beta.double().exp(), 0)
    torch.testing.assert_close(rebuilt.float(), short.abar.float(), rtol=1e-4, atol=1e-7)
    gaps = short.timestep.diff()
    assert steps == 1 or gaps.max() - gaps.min() <= 1
    for value in vars(short).values():
        assert value.isfinite().all()


def test_a_process_moves_as_a_whole():
    moved = process("linear", 10).to("meta")
    assert {value.device.type for value in vars(moved).values()} == {"meta"}
