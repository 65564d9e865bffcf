"""Measuring: distances with known answers, a cache that is used and never shared, samples and sheets in their order."""

import dataclasses
import math
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch_fidelity
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from harness import record
from harness.cost import interface
from harness.data.base import Images
from harness.diffusion.process import predict_x0, process
from harness.errors import ConfigError
from harness.metrics.base import BATCH, Samples, Subject
from harness.metrics.diffusion_loss import diffusion_loss
from harness.metrics.extractors import lite0
from harness.metrics.extractors.base import SPATIAL
from harness.metrics.extractors.registry import EXTRACTORS
from harness.metrics.fidelity import KID_SUBSETS, fidelity
from harness.metrics.reference import Reals
from harness.metrics.registry import evaluate
from harness.metrics.sheet import sheet
from harness.metrics.val_loss import val_loss
from harness.models.registry import build
from harness.streams import BLOCK, Noise
from harness.trial import bench

FAMILY = ("fid", "sfid", "kid", "inception_score", "precision", "recall")


def subject(cell, seed=0):
    return Subject(build(cell.model, *interface(cell), seed=seed).eval(), cell, "cpu")


def instead(monkeypatch, images):
    """Every model generates these images (N, 1, 16, 16), in order; returns the starts it was asked for."""
    asked = []
    monkeypatch.setattr(
        Subject, "generate", lambda self, start, count: asked.append(start) or images[start : start + count]
    )
    return asked


def measured(cell, place):
    against = bench(cell, place)
    return dict(fidelity(subject(cell), against, Samples(subject(cell))))


@pytest.fixture
def extracted(tiny, monkeypatch):
    """How many images each call of the tiny extractor was given."""
    EXTRACTORS["tiny"].register()
    pooled, counts = FEATURE_EXTRACTORS_REGISTRY["tiny-pooled"], []
    forward = pooled.forward
    monkeypatch.setattr(pooled, "forward", lambda self, images: counts.append(len(images)) or forward(self, images))
    return counts


# Distances


def test_a_set_has_no_distance_to_itself(tiny, place, monkeypatch):
    cell = tiny(evaluate__samples=60, evaluate__reference=60)
    instead(monkeypatch, bench(cell, place).real.images)
    found = measured(cell, place)
    assert tuple(found) == FAMILY  # and no floor: no real image is left over
    assert abs(found["fid"]) < 1e-6 and abs(found["sfid"]) < 1e-5
    assert found["kid"] < 0  # unbiased, so below zero here
    assert found["precision"] == found["recall"] == 1
    assert found["inception_score"] > 1


def test_worse_images_are_farther(tiny, place, monkeypatch):
    cell = tiny(evaluate__samples=60, evaluate__reference=60)
    real, found = bench(cell, place).real.images, []
    noise = torch.randint(256, real.shape, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.3, 1.0):
        instead(monkeypatch, ((1 - share) * real + share * noise).to(torch.uint8))
        found.append(measured(cell, place))
    for name in ("fid", "sfid", "kid"):
        assert found[0][name] + 1e-4 < found[1][name] < found[2][name]
    assert found[2]["precision"] < 0.5


def test_few_true_images_are_precise_but_recall_little(tiny, place, monkeypatch):
    cell = tiny(evaluate__samples=60, evaluate__reference=60)
    instead(monkeypatch, bench(cell, place).real.images[:4].repeat(15, 1, 1, 1))
    found = measured(cell, place)
    assert found["precision"] == 1 and found["recall"] < 0.2


@pytest.mark.parametrize(("metric", "side"), [("fid", 2), ("sfid", 4)])
def test_fid_is_the_frechet_distance_of_the_features(tiny, place, monkeypatch, metric, side):
    """Against the definition: means, covariances and the square root of their product."""
    cell = tiny(evaluate__samples=40, evaluate__reference=50)
    real = bench(cell, place).real.images
    fake = (real[:40] // 2).roll(3, -1)
    instead(monkeypatch, fake)

    def statistics(images):
        means = torch.nn.functional.adaptive_avg_pool2d(images.double() / 64, side).flatten(1)
        return means.mean(0), means.T.cov()

    (m, c), (n, d) = statistics(fake), statistics(real[:50])
    roots = torch.linalg.eigvals(c @ d).real.clamp(min=0).sqrt().sum()
    expected = ((m - n) ** 2).sum() + c.trace() + d.trace() - 2 * roots
    assert measured(cell, place)[metric] == pytest.approx(expected.item(), rel=1e-3)


def test_every_metric_is_torch_fidelity_s(tiny, place, monkeypatch):
    """Its one public call measures what we measure; sFID is its FID of another layer."""
    cell = tiny(evaluate__samples=40, evaluate__reference=50)
    against = bench(cell, place)
    fake = (against.real.images[:40] // 2).roll(3, -1)
    instead(monkeypatch, fake)
    found = measured(cell, place)
    sides = {
        "input1": Reals(dataclasses.replace(against.real, images=fake), 40), "input2": Reals(against.real, 50),
        "feature_extractor": "tiny-pooled", "cuda": False, "save_cpu_ram": True, "verbose": False,
    }  # fmt: skip
    theirs = torch_fidelity.calculate_metrics(
        **sides, fid=True, kid=True, isc=True, prc=True, kid_subsets=KID_SUBSETS, kid_subset_size=40,
        isc_splits=1, samples_shuffle=False,
    )  # fmt: skip
    spatial = torch_fidelity.calculate_metrics(**sides, fid=True, feature_layer_fid=SPATIAL)
    expected = {
        "fid": theirs[torch_fidelity.KEY_METRIC_FID],
        "sfid": spatial[torch_fidelity.KEY_METRIC_FID],
        "kid": theirs[torch_fidelity.KEY_METRIC_KID_MEAN],
        "inception_score": theirs[torch_fidelity.KEY_METRIC_ISC_MEAN],
        "precision": theirs[torch_fidelity.KEY_METRIC_PRECISION],
        "recall": theirs[torch_fidelity.KEY_METRIC_RECALL],
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_sfid_hears_where_things_are(tiny, place, monkeypatch):
    """Each quarter of an image turned by itself: pooled over quarters nothing has changed."""
    cell = tiny(evaluate__samples=60, evaluate__reference=60)
    quarters = bench(cell, place).real.images.unflatten(-1, (2, 8)).unflatten(-3, (2, 8))
    instead(monkeypatch, quarters.flip(-1, -3).flatten(-4, -3).flatten(-2))
    found = measured(cell, place)
    assert abs(found["fid"]) < 1e-6 and found["sfid"] > 0.1


def test_without_spatial_features_there_is_no_sfid(tiny, place, monkeypatch):
    EXTRACTORS["tiny"].register()
    monkeypatch.setattr(
        FEATURE_EXTRACTORS_REGISTRY["tiny-pooled"], "get_provided_features_list", staticmethod(lambda: ("4", "logits"))
    )
    assert set(measured(tiny(), place)) == {*FAMILY, "fid_floor"} - {"sfid"}


@pytest.mark.parametrize("size", [7, 16, 60])
def test_metrics_do_not_depend_on_the_batch(tiny, place, monkeypatch, size):
    cell = tiny(evaluate__samples=60, evaluate__reference=60)
    against = bench(cell, place)
    asked = instead(monkeypatch, against.real.images.flip(-1))
    results = []
    for batch in (32, size):
        monkeypatch.setitem(BATCH, "cpu", batch)
        results.append(evaluate(subject(cell), against)[0])
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert asked == [*range(0, 60, 32), *range(0, 60, size)]  # each batch was made once, in order


def test_every_evaluator_speaks_the_contract(tiny, place):
    cell = tiny()
    metrics, picture = evaluate(subject(cell), bench(cell, place))
    assert set(record.QUALITY) <= set(metrics) <= set(record.METRICS)
    assert all(math.isfinite(value) for value in metrics.values())
    assert picture.dtype == torch.uint8 and picture.shape == (3 * 16, 5 * 16, 3)


def test_the_fewest_images_that_a_config_allows_can_be_measured(tiny, place):
    for few in ({"evaluate__samples": 4}, {"evaluate__reference": 4}):
        assert all(map(math.isfinite, measured(tiny(**few), place).values()))


# The reference and its cache


def test_the_cache_s_name_says_all_that_it_depends_on(tiny, place):
    cell, against = tiny(), bench(tiny(), place)
    small = dataclasses.replace(against.real, images=against.real.images[..., :8, :8])
    variants = [
        against,
        dataclasses.replace(against, real=dataclasses.replace(against.real, digest="f" * 64)),
        dataclasses.replace(against, real=small),
        dataclasses.replace(against, trial=tiny(evaluate__reference=31)),
        dataclasses.replace(against, trial=tiny(data__dataset="fashion-mnist")),
    ]
    names = [variant.settings["input2_cache_name"] for variant in variants]
    assert len(set(names)) == len(names)
    assert names[0] == f"tiny-{against.real.digest[:16]}-train-16px-32"
    same = dataclasses.replace(against, trial=tiny(train__lr=1.0, seed=5, data__images=5, model__patch=8))
    assert same.settings["input2_cache_name"] == names[0]
    assert bench(cell, place).settings["cache_root"] == str(place.cache)


def test_more_reference_images_than_there_are_is_said_by_the_name(tiny, place):
    assert bench(tiny(evaluate__reference=10_000), place).settings["input2_cache_name"].endswith("-60")


def test_extractors_do_not_share_files(tiny, place):
    bench(tiny(), place).prepare()
    first = {path.name for path in place.cache.iterdir()}
    bench(tiny(evaluate__extractor="lite0"), place).prepare()
    assert {path.name for path in place.cache.iterdir()} > first
    assert any(lite0.NAME in path.name for path in place.cache.iterdir())


def test_two_contents_of_one_name_do_not_share_statistics(tiny, place, monkeypatch):
    cell = tiny(evaluate__samples=60, evaluate__reference=60)
    old = bench(cell, place)
    old.prepare()
    new = dataclasses.replace(old, real=Images(old.real.images.flip(-1) // 2, old.real.labels, "f" * 64))
    new.prepare()
    instead(monkeypatch, new.real.images)
    assert dict(fidelity(subject(cell), new, Samples(subject(cell))))["fid"] == pytest.approx(0, abs=1e-6)
    assert dict(fidelity(subject(cell), old, Samples(subject(cell))))["fid"] > 0.1


def test_the_reference_is_extracted_once(tiny, place, extracted):
    cell = tiny(evaluate__reference=50)
    against = bench(cell, place)
    against.prepare()
    assert sum(extracted) == 50
    files = {path: path.stat().st_mtime_ns for path in place.cache.iterdir()}
    extracted.clear()
    bench(cell, place).prepare()
    assert extracted == []
    dict(fidelity(subject(cell), against, Samples(subject(cell))))
    assert sum(extracted) == cell.evaluate.samples  # and each sample once, for all six metrics
    after = {path: path.stat().st_mtime_ns for path in place.cache.iterdir()}
    assert after == files  # nothing is made again, and nothing kept of the samples
    assert all(path.name.startswith(against.settings["input2_cache_name"]) for path in after)


def test_a_cache_from_before_there_was_sfid_is_completed(tiny, place):
    against = bench(tiny(), place)
    against.prepare()
    for path in place.cache.glob(f"*{SPATIAL}*"):
        path.unlink()
    left = len(list(place.cache.iterdir()))
    against.prepare()
    assert len(list(place.cache.iterdir())) == left + 2  # its features and their mean and covariance


# Samples


def test_a_sample_s_noise_depends_on_neither_batch_nor_place_in_it(tiny):
    """DDPM draws at every step: each sample is the same, whatever comes with it."""
    one = subject(tiny(evaluate__sampler="ddpm", evaluate__steps=3))
    images = one.generate(0, 3 * BLOCK)
    assert torch.equal(images[60:70], one.generate(60, 10))  # over the border of two blocks
    assert torch.equal(images[2 * BLOCK :], one.generate(2 * BLOCK, BLOCK))


def test_samples_are_the_same_pictures_for_every_model(tiny):
    """A new network of any seed predicts no noise, so what it shows is what it was given."""
    first, again, other = (subject(tiny(seed=seed, model__patch=p), seed) for seed, p in ((0, 4), (0, 4), (7, 8)))
    images = first.generate(0, 16)
    assert images.dtype == torch.uint8 and images.shape == (16, 1, 16, 16)
    assert len(images.flatten(1).unique(dim=0)) == 16
    torch.manual_seed(3)
    assert torch.equal(images, again.generate(0, 16)) and torch.equal(images, other.generate(0, 16))
    assert not torch.equal(images, first.generate(16, 16))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_classes_take_turns(tiny, guidance):
    seen, one = [], subject(tiny(evaluate__guidance=guidance, evaluate__steps=1))
    net = one.net
    one.net = lambda x, t, y: seen.append(y.tolist()) or net(x, t, y)
    one.generate(4, 5)
    assert seen == [[1, 2, 0, 1, 2] + ([3] * 5 if guidance != 1 else [])]  # 3 is the null class


def test_samples_may_be_read_in_any_order(tiny, monkeypatch):
    images = torch.arange(16, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16)
    asked = instead(monkeypatch, images)
    monkeypatch.setitem(BATCH, "cpu", 5)
    samples = Samples(subject(tiny()))
    assert len(samples) == 16
    assert [int(samples[i][0, 0, 0]) for i in (0, 15, 3, 7, 5)] == [0, 15, 3, 7, 5]
    assert asked == [0, 15, 0, 5]  # whole batches, as if read in order
    assert torch.equal(samples.first, images[:5]) and samples[3].shape == (3, 16, 16)


# Held-out loss


def test_val_loss_of_a_model_that_says_nothing_is_the_noise_s_power(tiny, place):
    cell = tiny(evaluate__val_images=10)
    one = subject(cell)  # its output is zero
    found = dict(val_loss(one, bench(cell, place), None))
    noise = Noise((1, 16, 16), 0, 10, "cpu", "held-out")()
    assert found == {"val_loss": pytest.approx(noise.square().mean().item(), rel=1e-6)}
    assert dict(val_loss(one, bench(cell, place), None)) == found
    assert dict(val_loss(subject(tiny(seed=4)), bench(tiny(seed=4), place), None)) == found  # nor does the seed matter


def test_val_loss_is_over_held_out_images_on_an_even_grid_of_timesteps(tiny, place, monkeypatch):
    cell, seen = tiny(evaluate__val_images=10_000), []  # only 20 are held out
    monkeypatch.setitem(BATCH, "cpu", 8)
    one, against = subject(cell), bench(cell, place)
    one.net = lambda x, t, y: seen.append((x, t, y)) or torch.zeros(len(x), 2, 16, 16)
    dict(val_loss(one, against, None))
    x, t, y = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert t.tolist() == list(range(25, 1000, 50))
    assert torch.equal(y, against.held_out.labels)
    noise = Noise(x.shape[1:], 0, len(x), "cpu", "held-out")()
    clean = predict_x0(process(), x, t, noise)
    expected = against.held_out.images / 127.5 - 1
    torch.testing.assert_close(clean[:10], expected[:10], atol=1e-4, rtol=0)  # of the later ones little is left


def test_val_loss_is_of_timesteps_which_continuous_time_has_not(tiny, place):
    for objective, sampler, there in (("noise", "ddim", True), ("v", "ddpm", True), ("flow", "euler", False)):
        cell = tiny(diffusion__objective=objective, evaluate__sampler=sampler)
        assert bool(dict(val_loss(subject(cell), bench(cell, place), None))) == there


@pytest.mark.parametrize("objective", ["ddpm", "noise", "flow", "edm"])
def test_a_model_that_says_nothing_has_the_diffusion_loss_of_its_objective(tiny, place, objective):
    """Zero means no noise to `noise`, the velocity of an image that is its own noise to `flow`, and so on: by hand."""
    sampler = "ddim" if objective in ("ddpm", "noise") else "euler"
    cell = tiny(diffusion__objective=objective, evaluate__sampler=sampler, evaluate__val_images=18)
    one, against = subject(cell), bench(cell, place)
    found = dict(diffusion_loss(one, against, None))
    x0 = against.held_out.images[:18] / 127.5 - 1
    noise = Noise((1, 16, 16), 0, 18, "cpu", "held-out")()
    totals = []
    for place_, level in enumerate(record.LOG_SNR):
        if objective in ("ddpm", "noise"):
            level = float(min(process().log_snr.tolist(), key=lambda snr: abs(snr - level)))
        b_to_a = math.exp(-level / 2)
        if objective == "edm":
            z = x0 + b_to_a * noise
            image = 0.25 / (b_to_a**2 + 0.25) * z
            guess = (z - image) / b_to_a
        elif objective == "flow":
            t = b_to_a / (1 + b_to_a)
            guess = (1 - t) * x0 + t * noise
        else:
            guess = torch.zeros_like(noise)
        error = (guess - noise)[place_ :: len(record.LOG_SNR)].square().mean().item()
        assert found[f"noise_mse/{record.LOG_SNR[place_]}"] == pytest.approx(error, rel=1e-4)
        assert found[f"image_mse/{record.LOG_SNR[place_]}"] == pytest.approx(error * b_to_a**2, rel=1e-3)
        totals.append(error)
    assert found["diffusion_loss"] == pytest.approx(sum(totals) - (totals[0] + totals[-1]) / 2, rel=1e-4)  # steps of 2


def test_a_level_is_left_out_rather_than_guessed(tiny, place):
    cell = tiny(evaluate__val_images=len(record.LOG_SNR) - 1)
    assert dict(diffusion_loss(subject(cell), bench(cell, place), None)) == {}


# The floor


def test_the_floor_is_of_real_images_that_are_not_of_the_reference(tiny, place, monkeypatch):
    cell = tiny(evaluate__samples=25, evaluate__reference=30)
    real = bench(cell, place).real.images
    found = measured(cell, place)
    assert "fid_floor" not in measured(tiny(evaluate__samples=31, evaluate__reference=30), place)  # there are 60
    instead(monkeypatch, real[30:55])
    assert found["fid_floor"] == pytest.approx(measured(cell, place)["fid"], rel=1e-5)


def test_precision_and_recall_may_look_at_fewer_real_images_than_fid(tiny, place, monkeypatch):
    cell = tiny(evaluate__samples=20, evaluate__reference=60)
    instead(monkeypatch, bench(cell, place).real.images[40:])
    whole, part = measured(cell, place), measured(tiny(**cell_of(cell), evaluate__manifold=40), place)
    assert whole["precision"] == 1 and part["precision"] < 1
    assert part["fid"] == whole["fid"]


def cell_of(cell):
    return {"evaluate__samples": cell.evaluate.samples, "evaluate__reference": cell.evaluate.reference}


# Sheets


def numbered(count):
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()


@pytest.mark.parametrize(
    ("count", "classes", "expected"),
    [
        (9, 3, [[0, 3, 6], [1, 4, 7], [2, 5, 8]]),  # a row for each class
        (128, 10, [[row + 10 * column for column in range(8)] for row in range(10)]),
        (64, 10, [[row + 10 * column for column in range(6)] for row in range(10)]),  # only what there is
        (10, 10, [[row] for row in range(10)]),
        (24, 1000, [list(range(8)), list(range(8, 16)), list(range(16, 24))]),  # too many: in order
        (3, 1000, [[0, 1, 2]]),
        (2, 3, [[0, 1]]),
    ],
)
def test_a_sheet_has_a_row_for_each_class(count, classes, expected):
    picture = sheet(numbered(count), classes)
    assert picture.shape == (2 * len(expected), 2 * len(expected[0]), 3)
    assert picture[::2, ::2, 0].tolist() == expected
    assert torch.equal(picture[..., 0], picture[..., 2])  # grey


def test_a_sheet_keeps_colours_and_the_right_way_up():
    image = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    assert torch.equal(sheet(image, 1), image[0].permute(1, 2, 0))


# Extractors


@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_extractor_is_known_to_torch_fidelity(name):
    assert EXTRACTORS[name].register() in FEATURE_EXTRACTORS_REGISTRY
    EXTRACTORS[name].register()  # a second time does no harm


def test_inception_without_its_weights_is_one_line(tiny, place, monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ConfigError) as caught:
        bench(tiny(evaluate__extractor="inception"), place).prepare()
    message = str(caught.value)
    assert "\n" not in message and "no network" in message
    assert message.startswith(f"evaluate.extractor: 'inception' needs its weights at {place.data}/")
    assert message.endswith("put the file there, or choose lite0")


def test_inception_s_weights_are_used_where_they_lie(tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("downloaded"))
    file = tmp_path / Path(URL_INCEPTION_V3).name
    file.touch()
    assert EXTRACTORS["inception"].weights(tmp_path) == file


def photograph():
    """Grace Hopper in uniform, which matplotlib carries."""
    import matplotlib
    from PIL import Image

    picture = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    side = min(picture.size)
    pixels = torch.frombuffer(bytearray(picture.crop((0, 0, side, side)).tobytes()), dtype=torch.uint8)
    return pixels.view(side, side, 3).permute(2, 0, 1)[None]


def test_lite0_sees_what_is_there(monkeypatch):
    net = lite0.Lite0(lite0.NAME, ["1280", "logits"])
    photo = photograph()
    with monkeypatch.context() as patch:
        patch.setattr(lite0, "SIDE", 224)
        assert net(photo)[1].argmax() == 652  # ImageNet's "military uniform"
    features, logits = net(photo)
    assert features.shape == (1, 1280) and logits.shape == (1, 1000)
    others = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = net(torch.cat([others, others.flip(-1)]))[0]
    assert found.isfinite().all() and found.dtype == torch.float32
    assert torch.pdist(found).min() > 1e-3  # each its own
    mirrored = net(photo.flip(-1))[0]
    assert (features - mirrored).norm() < (features - found).norm(dim=1).min() / 1.5
    torch.testing.assert_close(net(others[:2])[0], found[:2], atol=1e-3, rtol=1e-3)


def test_lite0_s_spatial_features_are_inside_the_last_stage_of_stride_16():
    net, seen = lite0.Lite0(lite0.NAME, [SPATIAL, "1280"]), {}
    names = ("conv_stem", "blocks.4.0", "blocks.4.1.bn1", "blocks.5.0")
    hooks = [
        net.net.get_submodule(name).register_forward_hook(lambda _, x, out, name=name: seen.update({name: (x[0], out)}))
        for name in names
    ]
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    spatial, pooled = net(images)
    for hook in hooks:  # the network is one for the whole process
        hook.remove()
    assert [seen[name][1].shape[-1] for name in ("blocks.4.0", "blocks.5.0")] == [64 // 16, 64 // 32]
    assert torch.equal(spatial.view(3, 128, 4, 4), seen["blocks.4.1.bn1"][1][:, :128])
    assert spatial.min() == 0 and spatial.max() <= 6  # after its ReLU6
    whole = net.net.forward_head(net.net.forward_features(seen["conv_stem"][0]), pre_logits=True)
    assert torch.equal(pooled, whole)  # taking them changes nothing else


def test_inception_s_spatial_features_are_seven_channels_of_its_mixed_6(tmp_path, monkeypatch):
    """Its weights are not at hand here: any will do to see where the features are taken."""
    from torch_fidelity import FeatureExtractorInceptionV3

    from harness.metrics.extractors.inception import NAME, Inception

    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, saved: None)
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    net = Inception(NAME, ["2048", SPATIAL, "logits_unbiased"], feature_extractor_weights_path=str(file)).eval()
    mixed = []
    net.net.Mixed_6d.register_forward_hook(lambda layer, inputs, output: mixed.append(output))
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled, spatial, logits = net(images)
        plain = net.net(images)
    assert torch.equal(spatial.view(2, 7, 17, 17), mixed[0][:, :7])  # the block's channels begin with this branch's
    assert spatial.dtype == torch.float32 and all(map(torch.equal, plain, (pooled, logits)))
