"""What networks are trained to put out: conversions, losses and times, against formulas written again in fp64."""

import math

import pytest
import torch
from made_up import (
    CONTINUOUS,
    DISCRETE,
    WRITTEN,
    batch,
    for_objective,
    gaussian,
    levels,
    made,
    network,
    noise,
    oracle,
    output,
    times,
)  # fmt: skip
from torch.distributions import Normal, kl_divergence

from harness.config import change, make
from harness.diffusion.objectives import registry
from harness.diffusion.objectives.ddpm import bound_term, discretised_log_likelihood
from harness.diffusion.objectives.registry import OBJECTIVES
from harness.diffusion.process import SCHEDULES, add_noise, process
from harness.errors import ConfigError

EACH = pytest.mark.parametrize("name", WRITTEN)


def unit(name, t):
    """a and b over the spread of z, so that a noised image is of the same size at every level."""
    a, b = levels(name, t)
    return a, b, (a**2 + b**2).sqrt()


def puts_out(values):
    """A network that puts out these values (N, K, S, S), whatever it is asked."""
    return lambda x, t, y: values


def exact(name, t, count=9, fraction=-1.0):
    """x0, noise, and what a network that knows both puts out."""
    x0, eps = noise(count, 2, 4, 4, seed=1).clamp(-1, 1), noise(count, 2, 4, 4, seed=2)
    a, b = levels(name, t)
    out = output(name, x0, a * x0 + b * eps, a, b)
    return x0, eps, torch.cat([out, torch.full_like(out, fraction)], dim=1) if name == "ddpm" else out


# Conversions


@EACH
def test_the_path_is_that_of_the_papers(name):
    t = times(name)
    for ours, theirs in zip(made(name).path(t), levels(name, t), strict=True):
        assert ours.shape == (9, 1, 1, 1)
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-7, atol=1e-7)


@EACH
def test_a_time_is_found_by_its_log_snr(name):
    asked = torch.linspace(-8, 8, 9, dtype=torch.float64)
    a, b = levels(name, made(name).nearest(asked))
    found = (a**2 / b**2).log().flatten()
    # of discrete steps there is none nearer than half the gap to the next one
    assert (found - asked).abs().max() < (1e-5 if name in CONTINUOUS else 0.15)
    if name in DISCRETE:
        nearest = (made(name).process.log_snr - asked[:, None]).abs().amin(1)
        torch.testing.assert_close((found - asked).abs(), nearest, atol=1e-9, rtol=0)


@EACH
def test_a_prediction_says_of_z_what_z_is(name):
    t = times(name)
    a, b, size = unit(name, t)
    z = (size * noise(9, 2, 4, 4, seed=1)).float()
    found = made(name).predict(for_objective(name), z, t, torch.arange(9))
    assert found.x0.shape == found.noise.shape == z.shape and found.noise.dtype == torch.float32
    assert (found.fraction is not None) == (name == "ddpm")
    torch.testing.assert_close((a * found.x0 + b * found.noise) / size, z / size, atol=1e-5, rtol=0)


@EACH
def test_the_exact_output_is_read_as_image_and_noise(name):
    """To rounding, which what predicts the noise alone says of an image at many times the size, and EDM of noise."""
    t = times(name)
    x0, eps, out = exact(name, t)
    a, b, _ = unit(name, t)
    z = (a * x0 + b * eps).float()
    found = made(name).read(out.float(), z, t)
    grown = {"ddpm": b / a, "noise": b / a, "edm": a / b}.get(name, torch.zeros(()))
    image, of_noise = (1 + grown, 1) if name != "edm" else (1, 1 + grown)
    assert ((found.x0 - x0) / image).abs().max() < 2e-6
    assert ((found.noise - eps) / of_noise).abs().max() < 2e-6


def test_the_network_s_share_of_the_covariance_is_its_second_half():
    t, out = times("ddpm"), noise(9, 4, 4, 4)
    found = made("ddpm").read(out, noise(9, 2, 4, 4), t)
    assert torch.equal(found.noise, out[:, :2]) and torch.equal(found.fraction, out[:, 2:])


@EACH
def test_outputs_are_the_channels_and_for_a_covariance_twice(name):
    assert OBJECTIVES[name].outputs(3) == (6 if name == "ddpm" else 3)


@EACH
def test_a_network_is_told_what_its_paper_says(name):
    """EDM's c_in and c_noise, Table 1; a thousand times c_noise and t, which timestep features are made for."""
    told, t, z = [], times(name), noise(9, 2, 4, 4)

    def model(x, when, y):
        told.append((x, when, y))
        return torch.zeros(9, OBJECTIVES[name].outputs(2), 4, 4, dtype=torch.bfloat16)

    assert made(name).ask(model, z, t, torch.arange(9)).dtype == torch.float32
    ((x, when, y),) = told
    expected = {"flow": 1000 * t, "edm": 250 * t.log()}.get(name, t)
    torch.testing.assert_close(when, expected)
    scaled = z / (t**2 + 0.25).sqrt()[:, None, None, None] if name == "edm" else z
    torch.testing.assert_close(x, scaled)
    assert torch.equal(y, torch.arange(9))
    assert name in CONTINUOUS or not when.is_floating_point()


def test_discrete_times_are_steps_and_a_network_is_told_the_training_timestep():
    short, told = made("noise").respaced(4), []
    short.ask(lambda x, t, y: told.append(t.tolist()) or x, noise(4, 1, 2, 2), torch.arange(4), torch.zeros(4))
    assert told == [[0, 333, 666, 999]]


# Losses


@EACH
def test_the_loss_of_the_exact_output_is_nothing(name):
    t = times(name)
    x0, eps, out = exact(name, t)
    loss = made(name).loss(puts_out(out), x0, torch.zeros(9), t, eps)
    assert loss.mse.shape == (9,) and loss.mse.dtype == torch.float32
    assert loss.mse.max() < 1e-9
    assert (loss.vb is None) == (name != "ddpm")
    if name == "ddpm":  # at the first step it is a likelihood, which even the truth has
        assert t[0] > 0 and loss.vb.abs().max() < 1e-6


def written_out(name, out, x0, eps, a, b):
    """The regression of each paper, image by image, in fp64."""
    out, x0, eps = out.double(), x0.double(), eps.double()
    if name in ("ddpm", "noise"):  # DDPM equation 14
        off = out[:, :2] - eps
    elif name == "v":  # Salimans & Ho, section 4
        off = out - (a * eps - b * x0)
    elif name == "flow":  # SiT equation 5 at the linear path
        off = out - (eps - x0)
    else:  # EDM equation 8, with the D of equation 7 and the weight of Table 1
        image = 0.25 / (b**2 + 0.25) * (x0 + b * eps) + b * 0.5 / (b**2 + 0.25).sqrt() * out
        return torch.stack([(b[i] ** 2 + 0.25).item() / (b[i].item() * 0.5) ** 2 * (image[i] - x0[i]).square().mean()
                            for i in range(len(x0))])  # fmt: skip
    return torch.stack([each.square().sum() / each.numel() for each in off])


@EACH
def test_the_loss_is_that_of_the_paper(name):
    """One value an image: of a made-up network's output, against equations written in fp64."""
    t, y = times(name), torch.arange(9)
    x0, eps = noise(9, 2, 4, 4, seed=1).clamp(-1, 1), noise(9, 2, 4, 4, seed=2)
    a, b = levels(name, t)
    asked = []
    loss = made(name).loss(lambda x, t, y: asked.append(for_objective(name)(x, t, y)) or asked[0], x0, y, t, eps)
    expected = written_out(name, asked[0], x0, eps, a, b)
    torch.testing.assert_close(loss.mse.double(), expected, rtol=1e-5, atol=0)
    assert torch.equal(loss.total, loss.mse if loss.vb is None else loss.mse + loss.vb)
    assert expected.min() > 0.1


def test_edm_s_loss_counts_every_level_alike():
    """At equation 8's weight the loss is the network's own error: c_out^2 times the weight is 1."""
    t = times("edm")
    x0, eps, out = exact("edm", t)
    off = noise(9, 2, 4, 4, seed=3)
    loss = made("edm").loss(puts_out(out + off), x0, torch.zeros(9), t, eps)
    torch.testing.assert_close(loss.mse, off.square().flatten(1).mean(1), rtol=1e-4, atol=0)


@EACH
def test_the_loss_sees_the_noised_image_and_trains_every_output(name):
    t = times(name)
    x0, eps = noise(9, 2, 4, 4, seed=1).clamp(-1, 1), noise(9, 2, 4, 4, seed=2)
    a, b = levels(name, t)
    out = torch.full((9, OBJECTIVES[name].outputs(2), 4, 4), 0.3, requires_grad=True)
    seen = []
    loss = made(name).loss(lambda x, t, y: seen.append(x) or out, x0, torch.zeros(9), t, eps)
    loss.total.sum().backward()
    assert out.grad.isfinite().all() and (out.grad != 0).flatten(2).any(2).all()
    z = a * x0 + b * eps
    torch.testing.assert_close(seen[0].double(), z / (b**2 + 0.25).sqrt() if name == "edm" else z, atol=1e-6, rtol=1e-6)


# The bound that a learned covariance is trained by


def losses(values, steps=1000, schedule="linear", seed=0):
    x0, index, eps = batch(seed=seed, steps=steps)
    return made("ddpm", schedule=schedule, timesteps=steps).loss(puts_out(values), x0, torch.zeros(6), index, eps)


def test_mse_is_of_the_noise_one_value_an_image():
    eps, out = batch()[2], noise(6, 4, 4, 4, seed=9)
    loss = losses(out)
    assert loss.mse.tolist() == pytest.approx([((out[i, :2] - eps[i]) ** 2).sum().item() / 32 for i in range(6)])
    assert torch.equal(loss.total, loss.mse + loss.vb)
    x0, index, eps = batch()
    plain = made("noise").loss(puts_out(out[:, :2]), x0, torch.zeros(6), index, eps)
    assert plain.vb is None and plain.total is plain.mse and torch.equal(plain.mse, loss.mse)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bound_is_zero_where_the_true_posterior_is_predicted(schedule):
    eps = batch()[2]
    at_posterior, at_beta = (
        losses(torch.cat([eps, s * torch.ones_like(eps)], dim=1), schedule=schedule) for s in (-1, 1)
    )
    assert at_posterior.vb[1:].abs().max() < 1e-6
    assert at_beta.vb[1] > 1e-5


def test_the_bound_trains_the_covariance_alone():
    values = noise(6, 4, 4, 4, seed=3).requires_grad_()
    losses(values).vb.sum().backward()
    assert not values.grad[:, :2].any()
    assert (values.grad[:, 2:].flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bound_is_a_divergence_and_at_the_first_step_a_likelihood(schedule):
    """Against torch.distributions, with the posterior written out again in fp64 (DDPM equations 6 and 7)."""
    p, values = process(schedule), 0.3 * noise(6, 4, 4, 4, seed=3)
    x0, index, eps = batch()
    x = add_noise(p, x0, index, eps)
    found = losses(values, schedule=schedule).vb
    abar = torch.cumprod(1 - SCHEDULES[schedule](1000), 0)
    variances = [(1 - abar[i] / abar[i - 1]) * (1 - abar[i - 1]) / (1 - abar[i]) for i in range(1, 1000)]
    for n, i in enumerate(index.tolist()):
        a, before = abar[i], abar[i - 1] if i else torch.ones((), dtype=torch.float64)
        beta, variance = 1 - a / before, variances[max(i, 1) - 1]
        image, noised, guess, fraction = (v.double() for v in (x0[n], x[n], values[n, :2], values[n, 2:]))

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
    mass = discretised_log_likelihood(values, torch.full_like(values, mean), log).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("steps", [100, 1000, 4000])
def test_a_term_of_the_bound_weighs_one_whatever_the_number_of_steps(steps):
    """As in the paper's code, which once weighed here as T / 1000, IDDPM's own."""
    p, values = process("linear", steps), noise(6, 4, 4, 4, seed=2)
    x0, index, eps = batch(steps=steps)
    term = bound_term(p, values[:, :2], values[:, 2:], x0, add_noise(p, x0, index, eps), index)
    assert torch.equal(losses(values, steps).vb, term)


# When networks are asked


def drawn(name, count=40_000, seed=0, **fields):
    return made(name, **fields).draw(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("steps", [10, 1000])
def test_discrete_times_are_every_step_alike(name, steps):
    t = drawn(name, timesteps=steps)
    assert t.dtype == torch.long and (t.min(), t.max()) == (0, steps - 1)
    expected = 40_000 / steps
    chi2 = ((torch.bincount(t, minlength=steps) - expected) ** 2 / expected).sum().item()
    assert abs(chi2 - (steps - 1)) < 4 * (2 * (steps - 1)) ** 0.5


def level(name, t):
    """ln(b / a)."""
    return t.double().logit() if name == "flow" else t.double().log()


DENSITIES = {  # name, settings -> mean and standard deviation of the level
    "edm's own": ("edm", {}, -1.2, 1.2),
    "edm's own, as logit-normal": ("edm", {"density": "logit-normal", "density_mean": -1.2, "density_std": 1.2},
                                   -1.2, 1.2),
    "edm, logit-normal": ("edm", {"density": "logit-normal"}, 0, 1),
    "flow, logit-normal": ("flow", {"density": "logit-normal"}, 0, 1),
    "flow, wide": ("flow", {"density": "logit-normal", "density_mean": 0.5, "density_std": 1.4}, 0.5, 1.4),
    # of u uniform, ln(u / (1 - u)) is logistic
    "flow's own": ("flow", {}, 0, math.pi / 3**0.5),
    "flow, uniform": ("flow", {"density": "uniform"}, 0, math.pi / 3**0.5),
    "edm, uniform": ("edm", {"density": "uniform"}, 0, math.pi / 3**0.5),
}  # fmt: skip


@pytest.mark.parametrize(("name", "fields", "mean", "std"), DENSITIES.values(), ids=DENSITIES)
def test_levels_are_drawn_at_the_density_that_is_asked(name, fields, mean, std):
    found = level(name, drawn(name, **fields))
    assert found.mean().item() == pytest.approx(mean, abs=4 * std / 200)
    assert found.std().item() == pytest.approx(std, rel=0.03)
    assert torch.equal(drawn(name, **fields), drawn(name, **fields))
    assert not torch.equal(drawn(name, **fields), drawn(name, seed=1, **fields))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_uniform_density_is_uniform_on_the_line_from_image_to_noise(name):
    """b / (a + b), which of `flow` is t itself; `flow`'s own density is that one."""
    a, b = levels(name, drawn(name, density="uniform"))
    place = (b / (a + b)).flatten()
    assert place.min() > 0 and place.max() < 1
    share = torch.histc(place, 20, 0, 1) / 2000
    assert (share - 1).abs().max() < 0.1  # four standard deviations are 0.09
    assert torch.equal(drawn("flow"), drawn("flow", density="uniform"))


# Settings that cannot be


REFUSED = {
    "unknown": (
        {"diffusion__objective": "score"},
        "diffusion.objective: unknown objective 'score'; allowed: ddpm, noise, v, flow, edm",
    ),
    "unknown schedule": (
        {"diffusion__schedule": "sigmoid"},
        "diffusion.schedule: unknown schedule 'sigmoid'; allowed: linear, scaled_linear, cosine",
    ),
    "schedule of a flow": (
        {"diffusion__objective": "flow", "diffusion__schedule": "cosine"},
        "diffusion.schedule: cosine is of discrete objectives, which 'flow' is not; allowed: linear",
    ),
    "timesteps of edm": (
        {"diffusion__objective": "edm", "diffusion__timesteps": 500},
        "diffusion.timesteps: 500 is of discrete objectives, which 'edm' is not; allowed: 1000",
    ),
    "density of ddpm": (
        {"diffusion__density": "uniform"},
        "diffusion.density: uniform is of continuous objectives, which 'ddpm' is not; allowed: own",
    ),
    "density of v": (
        {"diffusion__objective": "v", "diffusion__density": "logit-normal", "diffusion__density_mean": 1.0},
        "diffusion.density: logit-normal is of continuous objectives, which 'v' is not; allowed: own",
    ),
    "sampling steps": (
        {"evaluate__steps": 2000},
        "evaluate.steps: 2000 exceeds diffusion.timesteps=1000; allowed: at most as many",
    ),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED)
def test_a_setting_that_cannot_be_is_refused_in_one_line(fields, message):
    trial = change(make({"model.size": "S", "model.patch": 4}), **fields)
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        registry.check(trial)
    assert "\n" not in str(caught.value)


@EACH
def test_what_fits_is_not_refused(name):
    trial = change(make({"model.size": "S", "model.patch": 4}), diffusion__objective=name)
    registry.check(trial)
    if name in CONTINUOUS:  # which take as many steps as they like
        registry.check(change(trial, evaluate__steps=2000, diffusion__density="uniform"))
    else:
        registry.check(change(trial, diffusion__schedule="cosine", diffusion__timesteps=250))


def test_an_unknown_objective_cannot_be_made():
    with pytest.raises(ConfigError, match=r"^diffusion\.objective: unknown objective 'score'"):
        made("score")


# One network in every parametrisation


@EACH
def test_the_network_of_an_objective_is_read_as_what_it_believes(name):
    """Of the made-up networks that samplers are tested with: x0 in fp64, through output and back."""
    t, believe = times(name), gaussian(0.3, 0.2)
    a, b, size = unit(name, t)
    z = (a * 0.3 + (0.04 * a**2 + b**2).sqrt() * noise(9, 2, 4, 4)).float()
    found = made(name).predict(network(name, believe), z, t, torch.zeros(9))
    exact = believe(z.double(), a, b, None)
    torch.testing.assert_close(found.x0.double(), exact, atol=2e-5, rtol=0)
    torch.testing.assert_close(found.noise.double(), (z - a * exact) / b, atol=2e-5, rtol=0)
    assert size.min() > 0.7 and oracle(z, t, torch.zeros(9)).isfinite().all()
