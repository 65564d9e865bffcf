"""Diffusion: schedules, samplers and the bound, against diffusers, torch.distributions and data with known answers."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from harness.diffusion.guidance import guided
from harness.diffusion.objectives.ddpm import _discretised_log_likelihood, bound_term, training_loss
from harness.diffusion.process import SCHEDULES, add_noise, predict_x0, process
from harness.diffusion.samplers.ddim import ddim
from harness.diffusion.samplers.ddpm import ddpm
from harness.diffusion.samplers.registry import SAMPLERS, sample

LENGTHS = (1000, 250, 10, 2)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(n=6, seed=0, steps=1000):
    """x0, index (the first step and the last among them), noise."""
    x0 = noise(n, 2, 4, 4, seed=seed).clamp(-1, 1)
    return x0, torch.linspace(0, steps - 1, n).long(), noise(n, 2, 4, 4, seed=seed + 1)


# Schedules


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
    assert ((p.beta > 0) & (p.beta < 1)).all()
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
    torch.testing.assert_close(p.posterior_log_variance[1:], -precision.log().float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(p.posterior_x[1:], ((1 - beta).sqrt() / beta / precision).float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        p.posterior_x0[1:], (before.sqrt() / (1 - before) / precision).float(), atol=1e-5, rtol=1e-4
    )
    assert (p.posterior_x0[0], p.posterior_x[0]) == (1, 0)  # before the first step there is the image itself


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
    torch.testing.assert_close(torch.cumprod(1 - short.beta.double(), 0).float(), short.abar, rtol=1e-3, atol=1e-6)
    gaps = short.timestep.diff()
    assert steps == 1 or gaps.max() - gaps.min() <= 1
    for value in vars(short).values():
        assert value.isfinite().all()


# Samplers


def oracle(x, t, y):
    """A made-up model of 2C outputs that depends on all it is given."""
    when = t[:, None, None, None] / 1000 + y[:, None, None, None]
    return torch.cat([torch.tanh(x + when.sin()), torch.sin(3 * x + when)], dim=1)


def linear_abar():
    return np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))


@pytest.mark.parametrize("steps", [1000, 250, 10])
@pytest.mark.parametrize("bounded", [True, False])
def test_ddpm_steps_are_those_of_diffusers(steps, bounded):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(1000, variance_type="learned_range", clip_sample=bounded, timestep_spacing="linspace")
    theirs.set_timesteps(steps)
    theirs.alphas_cumprod = torch.from_numpy(linear_abar())  # in fp64, as ours are computed
    x, y = noise(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    rngs = [torch.Generator().manual_seed(5) for _ in range(2)]
    ours = ddpm(process().respaced(steps), oracle, x, y, bounded, rngs[0])
    for t, after in zip(theirs.timesteps, ours, strict=True):
        expected = theirs.step(oracle(x, t.expand(4), y), t, x, generator=rngs[1]).prev_sample
        # relative too: without clipping, a made-up model's x grows
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)
        x = after


@pytest.mark.parametrize("steps", [1000, 250, 10])
@pytest.mark.parametrize("bounded", [True, False])
def test_ddim_steps_are_those_of_diffusers(steps, bounded):
    """Its stride differs from ours, so it is given the respaced process as if that were the whole."""
    from diffusers import DDIMScheduler

    kept = np.linspace(0, 999, steps).round().astype(int)
    theirs = DDIMScheduler(steps, clip_sample=bounded, set_alpha_to_one=True)
    theirs.set_timesteps(steps)
    theirs.alphas_cumprod = torch.from_numpy(linear_abar()[kept])
    x, y = noise(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    ours = ddim(process().respaced(steps), oracle, x, y, bounded, None)
    for step, after in zip(theirs.timesteps.tolist(), ours, strict=True):
        output = oracle(x, torch.full((4,), kept[step]), y)[:, :1]
        expected = theirs.step(output, step, x, use_clipped_model_output=bounded).prev_sample
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)
        x = after


@pytest.mark.parametrize("steps", [250, 10, 3, 1])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("bounded", [True, False])
def test_dpm_solver_steps_are_those_of_diffusers(steps, schedule, bounded):
    """Driven by hand over the whole process, with its own way from noise to image and its own clipping."""
    from diffusers import DPMSolverMultistepScheduler

    abar = torch.cumprod(1 - SCHEDULES[schedule](1000), 0)  # in fp64
    kept = np.linspace(0, 999, steps).round().astype(int) if steps > 1 else np.array([999])
    theirs = DPMSolverMultistepScheduler(
        1000, thresholding=bounded, final_sigmas_type="sigma_min", euler_at_final=True
    )  # thresholding at 1 is a clip
    theirs.alphas_cumprod = abar
    theirs.set_timesteps(timesteps=kept[:0:-1].tolist())
    x, y = noise(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
    *ours, last = SAMPLERS["dpm++"](process(schedule).respaced(steps), oracle, x, y, bounded, None)
    for t, after in zip(theirs.timesteps, ours, strict=True):
        expected = theirs.step(oracle(x, t.expand(4), y)[:, :1], t, x).prev_sample
        torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)
        x = after
    clean = (x - (1 - abar[kept[0]]).sqrt() * oracle(x, torch.full((4,), kept[0]), y)[:, :1]) / abar[kept[0]].sqrt()
    torch.testing.assert_close(last, (clean.clamp(-1, 1) if bounded else clean).float(), atol=1e-4, rtol=1e-4)


def gaussian(mean, std, p, steps):
    """The perfect model of data whose values are all N(mean, std): the best noise, and the exact covariance."""
    short = p.respaced(steps)

    def model(x, t, y):
        abar, step = p.abar[t[0]].double(), (short.timestep == t[0]).nonzero().item()
        spread = std**2 * abar + 1 - abar
        x0 = mean + std**2 * abar.sqrt() / spread * (x - abar.sqrt() * mean)
        eps = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
        # Of x_before given x: the posterior's variance, and that of x0 carried through its mean.
        variance = (
            short.posterior_log_variance[step].exp() + short.posterior_x0[step] ** 2 * std**2 * (1 - abar) / spread
        )
        low, high = short.posterior_log_variance[step], short.beta[step].log()
        fraction = 2 * (variance.log() - low) / (high - low) - 1 if step else torch.zeros(())
        return torch.cat([eps, fraction.expand_as(x)], dim=1)

    return model


@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 250), ("ddpm", 8), ("ddim", 500), ("dpm++", 100)])
@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.2), (-1.0, 0.5), (0.0, 1.0)])
def test_a_perfect_model_gives_the_data_s_mean_and_variance(sampler, steps, mean, std):
    """With the exact covariance DDPM is exact at any number of steps; DDIM solves an equation, and needs some."""
    p, rng = process(), torch.Generator().manual_seed(1)
    y = torch.zeros(64, dtype=torch.long)
    x = sample(p, gaussian(mean, std, p, steps), y, (1, 16, 16), sampler, steps, bounded=False, rng=rng)
    assert x.shape == (64, 1, 16, 16)
    assert x.mean().item() == pytest.approx(mean, abs=0.015)
    assert x.std().item() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize(
    ("schedule", "mean", "std"), [("linear", 0.3, 0.2), ("linear", -1.0, 0.5), ("cosine", 0.3, 0.2)]
)
def test_dpm_solver_is_of_second_order_and_ddim_of_first(schedule, mean, std):
    """Of Gaussian data the deterministic path of every noise is known: it keeps its place in the distribution."""
    p, x, y = process(schedule), noise(8, 1, 8, 8).double(), torch.zeros(8, dtype=torch.long)
    last = p.abar[-1].double()
    exact = mean + std * (x - last.sqrt() * mean) / (std**2 * last + 1 - last).sqrt()

    def error(sampler, steps):
        *_, end = SAMPLERS[sampler](p.respaced(steps), gaussian(mean, std, p, steps), x, y, False, None)
        return (end - exact).square().mean().sqrt().item()

    first, second = ([error(sampler, steps) for steps in (5, 10, 20, 80)] for sampler in ("ddim", "dpm++"))
    assert all(b < a for a, b in zip(first, second, strict=True))
    assert 3 < first[2] / first[3] < 5  # four times the steps
    assert second[2] / second[3] > 12


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_follow_from_the_stream_and_ask_about_training_timesteps(sampler):
    seen = []

    def model(x, t, y):
        seen.append(t.tolist())
        return oracle(x, t, y)

    y = torch.tensor([1, 2])
    a, b, c = (
        sample(process(), model, y, (1, 4, 4), sampler, 4, rng=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert seen[:4] == [[999, 999], [666, 666], [333, 333], [0, 0]]
    assert a.abs().max() <= 1  # bounded: the last step ends on a clipped image


# Guidance


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


# Training loss


def losses(output, steps=1000, schedule="linear", seed=0):
    p = process(schedule, steps)
    x0, index, eps = batch(seed=seed, steps=steps)
    return training_loss(p, output, x0, add_noise(p, x0, index, eps), index, eps)


def test_mse_is_of_the_noise_one_value_an_image():
    eps, output = batch()[2], noise(6, 2, 4, 4, seed=9)
    loss = losses(output)
    assert loss.mse.tolist() == pytest.approx([((output[i] - eps[i]) ** 2).sum().item() / 32 for i in range(6)])
    assert loss.vb is None and loss.total is loss.mse
    loss = losses(torch.cat([output, output], dim=1))
    assert torch.equal(loss.total, loss.mse + loss.vb)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bound_is_zero_where_the_true_posterior_is_predicted(schedule):
    eps = batch()[2]
    at_posterior, at_beta = (
        losses(torch.cat([eps, s * torch.ones_like(eps)], dim=1), schedule=schedule) for s in (-1, 1)
    )
    assert at_posterior.vb[1:].abs().max() < 1e-6
    assert at_beta.vb[1] > 1e-5


def test_the_bound_trains_the_covariance_alone():
    output = noise(6, 4, 4, 4, seed=3).requires_grad_()
    losses(output).vb.sum().backward()
    assert not output.grad[:, :2].any()
    assert (output.grad[:, 2:].flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bound_is_a_divergence_and_at_the_first_step_a_likelihood(schedule):
    """Against torch.distributions, with the posterior written out again in fp64 (DDPM equations 6 and 7)."""
    p, output = process(schedule), 0.3 * noise(6, 4, 4, 4, seed=3)
    x0, index, eps = batch()
    x = add_noise(p, x0, index, eps)
    found = training_loss(p, output, x0, x, index, eps).vb
    abar = torch.cumprod(1 - SCHEDULES[schedule](1000), 0)
    variances = [(1 - abar[i] / abar[i - 1]) * (1 - abar[i - 1]) / (1 - abar[i]) for i in range(1, 1000)]
    for n, i in enumerate(index.tolist()):
        a, before = abar[i], abar[i - 1] if i else torch.ones((), dtype=torch.float64)
        beta, variance = 1 - a / before, variances[max(i, 1) - 1]
        image, noised, guess, fraction = (v.double() for v in (x0[n], x[n], output[n, :2], output[n, 2:]))

        def mean(image, a=a, before=before, beta=beta, noised=noised):
            return before.sqrt() * beta / (1 - a) * image + (a / before).sqrt() * (1 - before) / (1 - a) * noised

        spread = ((fraction + 1) / 2 * beta.log() + (1 - fraction) / 2 * variance.log()).div(2).exp()
        model = Normal(mean((noised - (1 - a).sqrt() * guess) / a.sqrt()), spread)
        if i:
            nats = kl_divergence(Normal(mean(image), variance.sqrt()), model)
        else:
            upper = torch.where(image == 1, 1.0, model.cdf(image + 1 / 255))
            nats = -(upper - torch.where(image == -1, 0.0, model.cdf(image - 1 / 255))).clamp(min=1e-12).log()
        assert found[n].item() == pytest.approx(nats.mean().item() / math.log(2), rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("mean", [-1.3, -1.0, 0.1, 0.98])
@pytest.mark.parametrize("scale", [0.003, 0.05, 1.0])
def test_the_likelihoods_of_all_256_values_sum_to_one(mean, scale):
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    log = torch.full_like(values, math.log(scale))
    mass = _discretised_log_likelihood(values, torch.full_like(values, mean), log).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)


def test_the_bound_weighs_as_at_a_thousand_steps_whatever_their_number():
    p, fraction = process("linear", 100), noise(1, 2, 4, 4, seed=2)
    x0, _, eps = (v[:1] if v.ndim > 1 else v for v in batch())
    index = torch.tensor([40])
    x = add_noise(p, x0, index, eps)
    term = bound_term(p, eps, fraction, x0, x, index)
    torch.testing.assert_close(training_loss(p, torch.cat([eps, fraction], 1), x0, x, index, eps).vb, term / 10)


def test_a_process_moves_as_a_whole():
    moved = process("linear", 10).to("meta")
    assert {value.device.type for value in vars(moved).values()} == {"meta"}
