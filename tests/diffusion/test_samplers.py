"""Samplers, step by step against diffusers' own, against EDM's Algorithm 1 in fp64, and on data with known answers."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from made_up import CONTINUOUS, DISCRETE, WRITTEN, for_objective, gaussian, levels, made, network, noise, oracle, stream

from harness.config import change, make
from harness.diffusion.guidance import guided
from harness.diffusion.objectives.registry import OBJECTIVES
from harness.diffusion.process import SCHEDULES
from harness.diffusion.samplers import registry
from harness.diffusion.samplers.registry import SAMPLERS, sample
from harness.errors import ConfigError

FITTING = [(sampler, name) for sampler, kind in SAMPLERS.items() for name in OBJECTIVES
           if OBJECTIVES[name].family == kind.family]  # fmt: skip
SAYS = {"ddpm": "epsilon", "noise": "epsilon", "v": "v_prediction"}  # of a network's output, in diffusers' words
X, Y = noise(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])


def linear_abar():
    return np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))


def walk(sampler, name, steps, model=None, x=X, y=Y, bounded=False, fresh=None, **fields):
    """What a sampler yields on an objective, whose network is the made-up one unless another is given."""
    return SAMPLERS[sampler].walk(made(name, **fields), model or for_objective(name), x, y, steps, bounded, fresh)


# Each of these yields (ours, theirs, the size of x) after every step, the two being driven by the same network. Those
# of the discrete samplers set out from the same x at each step, since a made-up network's x may grow; the others from
# the same noise alone.


def against_ddpm(name, steps, bounded):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(
        1000, variance_type="learned_range" if name == "ddpm" else "fixed_small", clip_sample=bounded,
        timestep_spacing="linspace", prediction_type=SAYS[name],
    )  # fmt: skip
    theirs.set_timesteps(steps)
    theirs.alphas_cumprod = torch.from_numpy(linear_abar())  # in fp64, as ours are computed
    x, rng, model = X, torch.Generator().manual_seed(5), for_objective(name)
    for t, after in zip(theirs.timesteps, walk("ddpm", name, steps, bounded=bounded, fresh=stream(X, 5)), strict=True):
        yield after, theirs.step(model(x, t.expand(4), Y), t, x, generator=rng).prev_sample, 1
        x = after


def against_ddim(name, steps, bounded):
    """Its stride differs from ours, so it is given the respaced process as if that were the whole."""
    from diffusers import DDIMScheduler

    kept = np.linspace(0, 999, steps).round().astype(int) if steps > 1 else np.array([999])
    theirs = DDIMScheduler(steps, clip_sample=bounded, set_alpha_to_one=True, prediction_type=SAYS[name])
    theirs.set_timesteps(steps)
    theirs.alphas_cumprod = torch.from_numpy(linear_abar()[kept])
    x = X
    for step, after in zip(theirs.timesteps.tolist(), walk("ddim", name, steps, bounded=bounded), strict=True):
        output = oracle(x, torch.full((4,), kept[step]), Y)[:, :1]
        yield after, theirs.step(output, step, x, use_clipped_model_output=bounded).prev_sample, 1
        x = after


def against_dpm_solver(name, steps, bounded, schedule="linear"):
    """Driven by hand over the whole process, with its own way from output to image and its own clipping."""
    from diffusers import DPMSolverMultistepScheduler

    abar = torch.cumprod(1 - SCHEDULES[schedule](1000), 0)  # in fp64
    kept = np.linspace(0, 999, steps).round().astype(int) if steps > 1 else np.array([999])
    theirs = DPMSolverMultistepScheduler(
        1000, thresholding=bounded, final_sigmas_type="sigma_min", euler_at_final=True, prediction_type=SAYS[name]
    )  # thresholding at 1 is a clip
    theirs.alphas_cumprod = abar
    theirs.set_timesteps(timesteps=kept[:0:-1].tolist())
    x = X
    *ours, last = walk("dpm++", name, steps, bounded=bounded, schedule=schedule)
    for t, after in zip(theirs.timesteps, ours, strict=True):
        yield after, theirs.step(oracle(x, t.expand(4), Y)[:, :1], t, x).prev_sample, 1
        x = after
    a, b = abar[kept[0]].sqrt(), (1 - abar[kept[0]]).sqrt()
    output = oracle(x, torch.full((4,), kept[0]), Y)[:, :1].double()
    clean = a * x - b * output if name == "v" else (x - b * output) / a
    yield last, (clean.clamp(-1, 1) if bounded else clean).float(), 1


def against_flow_euler(steps):
    """At the sigmas that diffusers' own pipelines give it."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    x = X
    for t, ours in zip(theirs.timesteps, walk("euler", "flow", steps), strict=True):
        x = theirs.step(for_objective("flow")(x, t.expand(4), Y), t, x).prev_sample
        yield ours, x, 1


def given(scheduler, sigmas):
    """A Heun scheduler of diffusers with these noise levels, the last 0, instead of those it would choose."""
    scheduler.set_timesteps(max(2, len(sigmas) - 1))
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.timesteps = 1000 * torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2)])
    return scheduler


def against_flow_heun(steps):
    from diffusers import FlowMatchHeunDiscreteScheduler

    theirs = given(FlowMatchHeunDiscreteScheduler(), torch.linspace(1, 0, steps + 1))
    x, ours = X, walk("heun", "flow", steps)
    for call, t in enumerate(theirs.timesteps):
        x = theirs.step(for_objective("flow")(x, t.expand(4), Y), t, x).prev_sample
        if call % 2 or t == theirs.timesteps[-1]:
            yield next(ours), x, 1
    assert next(ours, None) is None


def edm_grid(steps):
    """diffusers' scheduler of EDM, whose preconditioning is its own, and its noise levels with the 0 at their end."""
    from diffusers import EDMEulerScheduler

    theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5, rho=7)
    theirs.set_timesteps(steps)
    return theirs, theirs.sigmas


def against_edm_euler(steps):
    theirs, sigmas = edm_grid(steps)
    x = 80 * X
    for t, sigma, ours in zip(theirs.timesteps, sigmas[1:], walk("euler", "edm", steps), strict=True):
        output = for_objective("edm")(theirs.scale_model_input(x, t), 1000 * t.expand(4), Y)
        x = theirs.step(output, t, x).prev_sample
        yield ours, x, max(1, sigma.item())


def against_edm_heun(steps):
    """diffusers' Heun steps, told the image that its EDM scheduler makes of the network's output."""
    from diffusers import HeunDiscreteScheduler

    edm, sigmas = edm_grid(steps)
    theirs = given(HeunDiscreteScheduler(prediction_type="sample"), sigmas)
    x, ours = 80 * X, walk("heun", "edm", steps)
    for call, t in enumerate(theirs.timesteps):
        sigma = sigmas[(call + 1) // 2]
        output = for_objective("edm")(edm.precondition_inputs(x, sigma), 250 * sigma.log().expand(4), Y)
        x = theirs.step(edm.precondition_outputs(x, output, sigma), t, x).prev_sample
        if call % 2 or t == theirs.timesteps[-1]:
            yield next(ours), x, max(1, sigmas[call // 2 + 1].item())
    assert next(ours, None) is None


def against_algorithm_1(steps, second):
    """EDM's Algorithm 1 in fp64, as in the paper (its `second` order or without it), on the levels of equation 5."""

    def denoised(x, sigma):  # equation 7 and Table 1
        spread = (sigma**2 + 0.25) ** 0.5
        output = oracle(x / spread, torch.full((4,), 250 * np.log(sigma), dtype=torch.float64), Y)[:, :1]
        return 0.25 / spread**2 * x + sigma * 0.5 / spread * output

    i = np.arange(steps)
    sigmas = (80 ** (1 / 7) + i / max(1, steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    x = 80 * X.double()
    walked = walk("heun" if second else "euler", "edm", steps)
    for (sigma, after), ours in zip(pairwise([*sigmas, 0.0]), walked, strict=True):
        slope = (x - denoised(x, sigma)) / sigma
        x, before = x + (after - sigma) * slope, x
        if second and after:
            x = before + (after - sigma) * (slope + (x - denoised(x, after)) / after) / 2
        yield ours.double(), x, max(1, after)


def assert_agree(pairs, count, within=1e-5):
    """Relative too: without clipping, a made-up network's x grows."""
    pairs = list(pairs)
    assert len(pairs) == count
    for ours, theirs, size in pairs:
        torch.testing.assert_close(ours / size, theirs / size, atol=within, rtol=within)
    assert pairs[-1][0].std() > 0.05


@pytest.mark.parametrize("steps", [1000, 250, 10])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("name", DISCRETE)
def test_ddpm_steps_are_those_of_diffusers(name, steps, bounded):
    """With the covariance that was learned, or else the smaller of the two fixed ones."""
    assert_agree(against_ddpm(name, steps, bounded), steps)


@pytest.mark.parametrize("steps", [1000, 250, 10, 1])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("name", DISCRETE)
def test_ddim_steps_are_those_of_diffusers(name, steps, bounded):
    assert_agree(against_ddim(name, steps, bounded), steps)


@pytest.mark.parametrize("steps", [250, 10, 3, 1])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("name", DISCRETE)
def test_dpm_solver_steps_are_those_of_diffusers(name, steps, schedule, bounded):
    assert_agree(against_dpm_solver(name, steps, bounded, schedule), steps)


@pytest.mark.parametrize("steps", [1, 4, 10, 50])
@pytest.mark.parametrize("against", [against_flow_euler, against_flow_heun, against_edm_euler, against_edm_heun])
def test_euler_and_heun_are_those_of_diffusers(against, steps):
    assert_agree(against(steps), steps)


@pytest.mark.parametrize("steps", [1, 4, 10, 50])
@pytest.mark.parametrize("second", [True, False])
def test_edm_s_steps_are_those_of_its_paper(second, steps):
    """In fp32 ours inherit the rounding of sigma 80, most where one step goes from there to the image."""
    assert_agree(against_algorithm_1(steps, second), steps, within=5e-5)


@pytest.mark.parametrize("steps", [1, 2, 18, 64])
def test_edm_stops_at_the_paper_s_noise_levels(steps):
    _, theirs = edm_grid(steps)
    ours = made("edm").times(steps)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-6, atol=0)
    assert ours[0].item() == pytest.approx(80) and ours[-1] == 0
    assert steps == 1 or ours[-2].item() == pytest.approx(0.002)


# Data with known answers


def perfect(name, mean, std, steps, schedule="linear"):
    """The best network of data whose values are all N(mean, std), in so many steps, with the exact covariance."""
    short = made("ddpm", schedule=schedule).process.respaced(steps)
    abar = short.abar
    variance = std**2 * (1 - abar) / (std**2 * abar + 1 - abar)  # of x0, given x
    # Of x_before given x: the posterior's variance, and that of x0 carried through its mean.
    variance = short.posterior_log_variance.double().exp() + short.posterior_x0.double() ** 2 * variance
    low, high = short.posterior_log_variance.double(), short.log_beta.double()
    fraction = 2 * (variance.log() - low) / (high - low) - 1
    fraction[0] = 0  # there the two meet, and no noise is added

    def at_step(x, t):
        return fraction[(short.timestep == t[0]).nonzero().item()].expand_as(x)

    return network(name, gaussian(mean, std), schedule, at_step)


@pytest.mark.parametrize(
    ("sampler", "name", "steps"),
    [
        ("ddpm", "ddpm", 250), ("ddpm", "ddpm", 8), ("ddpm", "noise", 1000), ("ddpm", "v", 1000),
        ("ddim", "ddpm", 500), ("ddim", "noise", 500), ("ddim", "v", 500),
        ("dpm++", "ddpm", 100), ("dpm++", "noise", 100), ("dpm++", "v", 100),
        ("euler", "flow", 200), ("euler", "edm", 200), ("heun", "flow", 40), ("heun", "edm", 40),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.2), (-1.0, 0.5), (0.0, 1.0)])
def test_a_perfect_model_gives_the_data_s_mean_and_variance(sampler, name, steps, mean, std):
    """With the exact covariance DDPM is exact at any number of steps; the others solve an equation, and need some."""
    y, like = torch.zeros(64, dtype=torch.long), noise(64, 1, 16, 16)
    x = sample(made(name), perfect(name, mean, std, steps), y, sampler, steps, False, stream(like, 1))
    assert x.shape == (64, 1, 16, 16) and x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(mean, abs=0.015)
    assert x.std().item() == pytest.approx(std, rel=0.03)


def way(name, schedule, mean, std, x):
    """Where the deterministic path of every noise x ends: it keeps its place in the distribution of z."""
    t = {"flow": torch.ones(1), "edm": torch.full((1,), 80.0)}.get(name, torch.full((1,), 999))
    a, b = levels(name, t, schedule)
    z = 80 * x if name == "edm" else x
    return mean + std * (z - a * mean) / (std**2 * a**2 + b**2).sqrt()


@pytest.mark.parametrize(
    ("name", "schedule", "mean", "std"),
    [
        ("ddpm", "linear", 0.3, 0.2), ("ddpm", "linear", -1.0, 0.5), ("ddpm", "cosine", 0.3, 0.2),
        ("v", "linear", 0.3, 0.2), ("flow", "linear", 0.3, 0.2), ("flow", "linear", -1.0, 0.5),
        ("edm", "linear", 0.3, 0.2), ("edm", "linear", -1.0, 0.5),
    ],
)  # fmt: skip
def test_some_samplers_are_of_second_order_and_the_plain_ones_of_first(name, schedule, mean, std):
    x, y = noise(8, 1, 8, 8).double(), torch.zeros(8, dtype=torch.long)
    exact = way(name, schedule, mean, std, x)

    def error(sampler, steps):
        model = perfect(name, mean, std, steps, schedule)
        *_, end = walk(sampler, name, steps, model, x, y, schedule=schedule)
        return (end - exact).square().mean().sqrt().item()

    samplers = ("ddim", "dpm++") if name in DISCRETE else ("euler", "heun")
    few = (12, 15) if name == "edm" else (5, 10)  # down from sigma 80 five steps are too long for either
    first, second = ([error(sampler, steps) for steps in (*few, 20, 80)] for sampler in samplers)
    assert all(b < a for a, b in zip(first, second, strict=True))
    assert 3 < first[2] / first[3] < 5  # four times the steps
    assert second[2] / second[3] > 12


# What all keep to


ASKED = {  # in four steps
    "ddpm": [999, 666, 333, 0], "ddim": [999, 666, 333, 0], "dpm++": [999, 666, 333, 0],
    "euler": [1000, 750, 500, 250], "heun": [1000, 750, 750, 500, 500, 250, 250],
}  # fmt: skip


@pytest.mark.parametrize(("sampler", "name"), [(s, n) for s, n in FITTING if s in ASKED and n in WRITTEN])
def test_samples_follow_from_the_stream_and_ask_at_times_that_were_trained(sampler, name):
    seen = []

    def model(x, t, y):
        seen.append(t.tolist())
        return for_objective(name)(x, t, y)

    y, like = torch.tensor([1, 2]), noise(2, 1, 4, 4)
    a, b, c = (sample(made(name), model, y, sampler, 4, True, stream(like, seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    asked = ASKED[sampler]
    if name == "edm":
        sigmas = edm_grid(4)[1][:4].log()
        asked = (250 * (sigmas[[0, 1, 1, 2, 2, 3, 3]] if sampler == "heun" else sigmas)).tolist()
    assert len(seen) == 3 * len(asked) == 3 * SAMPLERS[sampler].calls(4)
    for found, expected in zip(seen, asked, strict=False):
        assert found == pytest.approx([expected, expected], rel=1e-5)
    if name in DISCRETE:
        assert a.abs().max() <= 1  # bounded: the last step ends on a clipped image


@pytest.mark.parametrize(("sampler", "name"), FITTING)
@pytest.mark.parametrize("steps", [1, 5])
def test_a_walk_yields_after_each_step_and_ancestral_ones_alone_draw_further_noise(sampler, name, steps):
    drawn = []

    def fresh():
        drawn.append(1)
        return noise(2, 1, 4, 4, seed=len(drawn))

    found = list(walk(sampler, name, steps, x=X[:2], y=Y[:2], fresh=fresh))
    assert len(found) == steps
    assert all(x.shape == (2, 1, 4, 4) and x.isfinite().all() for x in found)
    if sampler in ASKED:  # of others nothing is known here
        assert len(drawn) == (steps - 1 if sampler == "ddpm" else 0)
    drawn.clear()
    last = sample(made(name), for_objective(name), Y[:2], sampler, steps, False, fresh)
    assert len(drawn) == (steps if sampler == "ddpm" else 1) and not last.requires_grad


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_walk_sets_out_from_noise_of_the_first_level(name):
    start = made(name).start(X)
    torch.testing.assert_close(start, X * (80 if name == "edm" else 1))


@pytest.mark.parametrize(("sampler", "name"), FITTING)
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_calls_are_as_many_as_are_made(sampler, name, steps, guidance):
    """In images that the network is given for one: guidance asks with the class and without it at once."""
    settings = change(
        make({"model.size": "S", "model.patch": 4}), diffusion__objective=name, evaluate__sampler=sampler,
        evaluate__steps=steps, evaluate__guidance=guidance,
    ).evaluate  # fmt: skip
    asked = []

    def model(x, t, y):
        asked.append(len(x))
        return for_objective(name)(x, t, y)

    list(walk(sampler, name, steps, guided(model, 9, guidance), fresh=stream(X)))
    assert sum(asked) == len(X) * registry.calls(settings)


# Settings that cannot be


@pytest.mark.parametrize(
    ("sampler", "name"), [(s, n) for s in SAMPLERS for n in OBJECTIVES if (s, n) not in FITTING]
)  # fmt: skip
def test_a_sampler_that_does_not_fit_is_refused_in_one_line(sampler, name):
    trial = change(make({"model.size": "S", "model.patch": 4}), diffusion__objective=name, evaluate__sampler=sampler)
    fit = ", ".join(s for s, n in FITTING if n == name)
    with pytest.raises(ConfigError) as caught:
        registry.check(trial)
    assert str(caught.value) == (
        f"evaluate.sampler: '{sampler}' does not fit objective '{name}'; allowed with it: {fit}"
    )


@pytest.mark.parametrize(("sampler", "name"), FITTING)
def test_a_sampler_that_fits_is_not_refused(sampler, name):
    trial = make({"model.size": "S", "model.patch": 4})
    registry.check(change(trial, diffusion__objective=name, evaluate__sampler=sampler))


def test_an_unknown_sampler_is_refused_with_the_known_ones():
    trial = change(make({"model.size": "S", "model.patch": 4}), evaluate__sampler="plms")
    known = ", ".join(SAMPLERS).replace("+", r"\+")
    with pytest.raises(ConfigError, match=rf"^evaluate\.sampler: unknown sampler 'plms'; allowed: {known}$"):
        registry.check(trial)
