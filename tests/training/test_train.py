"""The loop: it learns, resumes bit for bit, draws what (seed, images) say, and updates as torch's own AdamW would."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.data import registry as datasets
from harness.diffusion.objectives.registry import OBJECTIVES, objective
from harness.models.registry import build
from harness.training import checkpoint
from harness.training.loop import Diverged, batch_indices, check_finite, draw, steps
from harness.training.state import State, _gamma, ema_decay

EACH = pytest.mark.parametrize("name", OBJECTIVES)
T = 1000


@pytest.fixture
def images(tiny, tmp_path):
    return datasets.load("tiny", "train", tmp_path)


def network(trial):
    outputs = OBJECTIVES[trial.diffusion.objective].outputs(1)
    return build(trial.model, 1, 16, 3, outputs, seed=trial.seed)


def made(trial, dtype=torch.float32):
    return State(network(trial), trial, "cpu", dtype)


def drawn(images, trial, at):
    return draw(images, trial, objective(trial.diffusion), at, 3, "cpu")


def train(state, trial, images, count):
    return list(itertools.islice(steps(state, trial, images, 3), count))


def tensors(state):
    moments = state.optimiser.state_dict()["state"][0]
    return [state.master, state.ema, state.weights.float(), moments["exp_avg"], moments["exp_avg_sq"]]


# The loop


@EACH
def test_loss_falls(tiny, images, name):
    trial = tiny(train__images=80 * 16, train__batch=16, train__lr=3e-3, diffusion__objective=name)
    mse = [step.mse.item() for step in steps(made(trial), trial, images, 3)]
    # The starting output is zero, so it is the square of what is predicted: of noise, or of what has image in it too.
    image = images.images.float().div(127.5).sub(1).square().mean().item()
    known = {"ddpm": 1, "noise": 1, "flow": 1 + image, "v": (1 + image) / 2, "edm": (1 + 4 * image) / 2}
    first = known.get(name, mse[0])
    assert mse[0] == pytest.approx(first, rel=0.1 if first == 1 else 0.35)
    assert sum(mse[-10:]) / 10 < (0.6 if name in known else 0.9) * first


@EACH
def test_a_step_says_what_was_done(tiny, images, name):
    trial = tiny(train__images=30, train__batch=8, diffusion__objective=name)
    done = list(steps(made(trial), trial, images, 3))
    assert [(step.step, step.images) for step in done] == [(1, 8), (2, 16), (3, 24), (4, 32)]
    for step in done:
        assert (step.vb is None) == (name != "ddpm")
        assert step.loss.item() == pytest.approx((step.mse + (step.vb or 0)).item(), rel=1e-6)


class NoWaiting(TorchDispatchMode):
    """Fails on whatever would make the host wait for a GPU's answer."""

    asking = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique2")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket.__name__ not in self.asking, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_never_waits_for_the_device(tiny, images, dtype, name):
    trial = tiny(train__images=32, diffusion__objective=name)
    with NoWaiting():
        done = train(made(trial, dtype), trial, images, 3)
        with pytest.raises(AssertionError, match="waits for the device"):
            done[0].loss.item()


@EACH
def test_the_loss_of_a_step_is_that_of_its_batch_before_the_update(tiny, images, name):
    trial = tiny(diffusion__objective=name)
    state = made(trial)
    before = copy.deepcopy(state.net)
    (step,) = train(state, trial, images, 1)
    expected = objective(trial.diffusion).loss(before, *drawn(images, trial, 0))
    assert step.loss.item() == pytest.approx(expected.total.mean().item(), rel=1e-6)


@pytest.mark.parametrize("name", ["ddpm", "flow", "edm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_the_same_run(tiny, images, tmp_path, dtype, name):
    """Seven steps across an epoch's end, against three, a checkpoint, and four more in new objects."""
    trial = tiny(train__images=100 * 13, train__batch=13, diffusion__objective=name)
    whole = made(trial, dtype)
    train(whole, trial, images, 7)
    half = made(trial, dtype)
    train(half, trial, images, 3)
    checkpoint.save(tmp_path / "there" / "half.pt", half.state_dict())
    train(half, trial, images, 1)  # what comes after the checkpoint is lost
    again = made(tiny(train__images=100 * 13, train__batch=13, diffusion__objective=name, seed=9), dtype)
    again.load_state_dict(checkpoint.load(tmp_path / "there" / "half.pt", "cpu"))
    assert again.step == 3
    train(again, trial, images, 4)
    assert all(map(torch.equal, tensors(again), tensors(whole)))
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["half.pt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"n": 1})
    with pytest.raises(AttributeError):
        checkpoint.save(path, {"n": lambda: None})
    assert checkpoint.load(path, "cpu") == {"n": 1} and list(tmp_path.iterdir()) == [path]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.load(tmp_path / "none.pt", "cpu") is None


def test_bf16_follows_fp32(tiny, images):
    trial = tiny(train__images=40 * 16, train__batch=16, train__lr=3e-3)
    exact, rough = (
        torch.stack([step.loss for step in steps(made(trial, dtype), trial, images, 3)])
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.dtype == rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05
    assert exact[-5:].mean() < 0.7


def test_small_updates_are_not_lost_in_bf16(tiny, images):
    """An update of 1e-5 is below what bf16 weights could hold: the fp32 master keeps it."""
    trial = tiny(train__lr=1e-5)
    state, plain = made(trial, torch.bfloat16), made(trial)
    start = state.master.clone()
    train(state, trial, images, 8)
    train(plain, trial, images, 8)
    moved = (state.master - start).abs().mean()
    assert moved == pytest.approx((plain.master - start).abs().mean().item(), rel=0.1)


# Optimiser and average


def test_parameters_are_views_of_the_flat_weights(tiny):
    state = made(tiny(), torch.bfloat16)
    assert sum(p.numel() for p in state.net.parameters()) == len(state.weights) == len(state.master)
    assert {p.dtype for p in state.net.parameters()} == {torch.bfloat16}
    state.weights.fill_(0.5)
    state.gradient.fill_(0.25)
    assert all((p == 0.5).all() and (p.grad == 0.25).all() for p in state.net.parameters())
    assert {b.dtype for b in state.net.buffers()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train__weight_decay": 0.1, "train__beta1": 0.8, "train__beta2": 0.95},
        {"train__ema_decay": 0.9},
        {"train__ema_std": 0.05},
    ],
    ids=["paper", "decay and betas", "constant ema", "short ema"],
)
def test_updates_are_those_of_adamw_with_a_plain_average(tiny, images, changes):
    trial = tiny(**changes)
    state, net = made(trial), network(trial)
    c = trial.train
    adam = torch.optim.AdamW(net.parameters(), lr=c.lr, betas=(c.beta1, c.beta2), weight_decay=c.weight_decay)
    average = {name: value.clone() for name, value in net.named_parameters()}
    for n in range(1, 7):
        train(state, trial, images, 1)
        adam.zero_grad()
        objective(trial.diffusion).loss(net, *drawn(images, trial, (n - 1) * c.batch)).total.mean().backward()
        adam.step()
        decay = ema_decay(c.ema_std, c.ema_decay, n)
        average = {name: decay * average[name] + (1 - decay) * value for name, value in net.named_parameters()}
    for name, value in state.net.named_parameters():
        torch.testing.assert_close(value, net.get_parameter(name), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(state.ema_weights()[name], average[name], atol=1e-6, rtol=1e-5)
    assert list(state.ema_weights()) == [name for name, _ in net.named_parameters()]


def test_the_average_starts_with_the_first_update_and_not_with_the_initial_weights(tiny, images):
    assert ema_decay(0.1, 0, 1) == 0
    state = made(tiny())
    train(state, tiny(), images, 1)
    assert torch.equal(state.ema, state.master)


def test_a_constant_decay_is_constant():
    assert {ema_decay(0.1, 0.9999, n) for n in (1, 10, 10**6)} == {0.9999}


@pytest.mark.parametrize(("std", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_widths_have_edm2_s_exponents(std, gamma):
    assert _gamma(std) == pytest.approx(gamma, abs=0.01)


@pytest.mark.parametrize("std", [0.05, 0.10, 0.20])
def test_the_average_is_as_wide_as_it_says_and_grows_with_the_run(std):
    """Width and age of the weights that each update has in the average, after a short and a long run."""
    halves = []
    for n in (500, 2000):
        decays = torch.tensor([ema_decay(std, 0, i) for i in range(1, n + 1)], dtype=torch.float64)
        after = torch.cat([decays.flip(0).cumprod(0).flip(0)[1:], torch.ones(1)])
        share, when = (1 - decays) * after, torch.arange(1, n + 1) / n
        mean = (share * when).sum()
        assert share.sum().item() == pytest.approx(1)
        assert (share * (when - mean) ** 2).sum().sqrt().item() == pytest.approx(std, rel=0.02)
        halves.append((share.flip(0).cumsum(0) < 0.5).sum().item())
    assert halves[1] == pytest.approx(4 * halves[0], rel=0.05)


# What is drawn


@pytest.mark.parametrize("count", [7, 60, 61])
def test_each_epoch_is_a_permutation_whatever_the_batch(count):
    total = 3 * count
    orders = []
    for batch in (1, 5, 8, 64, total):
        parts = [batch_indices(4, at, batch, count) for at in range(0, total, batch)]
        assert {len(part) for part in parts} == {batch}
        orders.append(torch.cat(parts)[:total])
    assert all(torch.equal(order, orders[0]) for order in orders)
    epochs = orders[0].view(3, count)
    assert all(epoch.sort().values.tolist() == list(range(count)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(batch_indices(5, 0, count, count), epochs[0])


def test_a_batch_follows_from_seed_and_images_seen_alone(tiny, images):
    def given(at, **changes):
        return drawn(images, tiny(train__batch=32, **changes), at)

    first = given(64)
    torch.manual_seed(123)
    same = given(64, train__lr=1.0, train__images=999, model__patch=8, model__conditioning="adaLN", evaluate__steps=9)
    assert all(map(torch.equal, first, same))
    for other in (given(96), given(64, seed=1)):
        assert not any(map(torch.equal, first, other))
    # Whatever the objective, it is given the same images and labels; a discrete one the same times and noise too.
    for name in OBJECTIVES:
        assert all(map(torch.equal, first[:2], given(64, diffusion__objective=name)[:2]))
    for name in ("noise", "v"):
        assert all(map(torch.equal, first, given(64, diffusion__objective=name)))


@pytest.mark.parametrize(
    ("asked", "harmless", "flip"),
    [("on", True, True), ("on", False, True), ("off", True, False), ("off", False, False),
     ("own", True, True), ("own", False, False)],
)  # fmt: skip
def test_images_are_flipped_when_asked_or_where_the_dataset_says(tiny, images, monkeypatch, asked, harmless, flip):
    monkeypatch.setitem(datasets.DATASETS, "tiny", dataclasses.replace(datasets.lookup("tiny"), flip=harmless))
    trial = tiny(data__flip=asked, train__batch=60)
    flipped = 0
    for epoch in range(4):
        x0, y, _, _ = drawn(images, trial, 60 * epoch)
        chosen = batch_indices(trial.seed, 60 * epoch, 60, 60)
        plain = images.images[chosen].float() / 127.5 - 1
        same = (x0 == plain).flatten(1).all(1)
        assert (same | (x0 == plain.flip(-1)).flatten(1).all(1)).all()
        assert ((y == images.labels[chosen]) | (y == 3)).all()
        flipped += (~same).sum().item()
    assert 90 < flipped < 150 if flip else flipped == 0  # of 240: half, to four standard deviations


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_labels_are_dropped_at_the_rate_that_is_asked(tiny, images, rate):
    trial = tiny(train__label_dropout=rate, train__batch=4000)
    share = (drawn(images, trial, 0)[1] == 3).float().mean().item()
    assert share == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / 4000))


def test_timesteps_and_noise_are_uniform_and_normal(tiny, images):
    _, _, index, noise = drawn(images, tiny(train__batch=4000), 0)
    assert index.min() in range(T // 100) and index.max() in range(T - T // 100, T)
    assert index.float().mean().item() == pytest.approx(T / 2, rel=0.04)
    assert (noise.mean().item(), noise.std().item()) == pytest.approx((0, 1), abs=0.01)


# Divergence


@pytest.mark.parametrize(("value", "name"), [(float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf")])
def test_divergence_names_the_first_bad_step(value, name):
    check_finite(torch.tensor([1.0, 2.0]), 10)
    with pytest.raises(Diverged, match=f"^loss became {name} at step 9$"):
        check_finite(torch.tensor([1.0, value, float("nan")]), 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm", "flow", "edm"])
def test_the_compiled_step_is_the_plain_one(tiny, images, name):
    trial = tiny(train__images=24, diffusion__objective=name)
    plain, compiled = made(trial), made(trial)
    for a, b in zip(steps(plain, trial, images, 3), steps(compiled, trial, images, 3, compiled=True), strict=True):
        assert a.loss.item() == pytest.approx(b.loss.item(), rel=1e-4)
    torch.testing.assert_close(compiled.master, plain.master, atol=1e-4, rtol=1e-3)
