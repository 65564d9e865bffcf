"""Latents: encoded by a tiny autoencoder made here, as diffusers would; resumed, refused, trained on, decoded."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from harness import hardware, record
from harness.config import Data
from harness.cost import cost
from harness.data import autoencoder, latents, pictures, shards
from harness.data import registry as datasets
from harness.data.base import MANIFEST, normalise
from harness.data.registry import DATASETS
from harness.diffusion.objectives import registry as objectives
from harness.errors import ConfigError
from harness.progress import meter
from harness.streams import generator
from harness.tracking.sinks import Memory
from harness.training.loop import draw
from harness.trial import run
from sweeps import __main__ as door

ROOT = Path(__file__).parents[2]
SIDE = 16  # pixels; the autoencoder halves it


@pytest.fixture(autouse=True)
def _apart(monkeypatch):
    """No test knows of another's datasets, autoencoder or precision of matmuls, and all compute on the CPU."""
    monkeypatch.setattr(hardware, "device", lambda: "cpu")
    before, precision = dict(DATASETS), torch.get_float32_matmul_precision()
    yield
    DATASETS.clear()
    DATASETS.update(before)
    datasets._splits.cache_clear()
    shards._decoder.cache_clear()
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="session")
def coder(tmp_path_factory):
    """A folder with an autoencoder of 3x16x16 pixels to 4x8x8 latents, of random weights, scale 0.5 and a shift."""
    return make_coder(tmp_path_factory.mktemp("coder"), seed=0)


def make_coder(folder, seed, **changes):
    import diffusers

    torch.manual_seed(seed)
    settings = {
        "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "norm_num_groups": 4, "sample_size": SIDE,
        "scaling_factor": 0.5, "shift_factor": 0.25,
    }  # fmt: skip
    diffusers.AutoencoderKL(**settings | changes).save_pretrained(folder)
    return folder


@pytest.fixture
def root(tmp_path):
    """Three classes of ten images each, in three formats: a bright bar on a dim ground, whose place is the class."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(10):
            pixels = rng.integers(0, 90, (20, 24, 3), np.uint8)
            pixels[:, 4 + 6 * label : 9 + 6 * label] += 150
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{n}.{('png', 'jpg', 'webp')[n % 3]}")
    return tmp_path / "photos"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The data folder; shards hold seven images and row groups three, so that there are several of each."""
    monkeypatch.setattr(latents, "ROWS", 7)
    monkeypatch.setattr(shards, "GROUP", 3)
    return tmp_path / "data"


def encode(root, coder, folder, name="pets", **options):
    """As the command does: 24 training and 6 held-out images in four shards and one, ten kept as pictures."""
    latents.main(root, str(coder), name, folder=folder, **{"side": SIDE, "held_out": 0.2, "reference": 10} | options)
    return shards.Manifest.model_validate_json((folder / name / MANIFEST).read_text())


def refused(*arguments, **options):
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as caught:
        encode(*arguments, **options)
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message
    return message.removeprefix("error: ")


def unloadable(folder, name="pets", split="train"):
    datasets._splits.cache_clear()
    shards._decoder.cache_clear()
    with pytest.raises(ConfigError) as caught:
        datasets.load(name, split, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def net_of(coder):
    import diffusers

    return diffusers.AutoencoderKL.from_pretrained(coder, low_cpu_mem_usage=False).eval()


def files_of(home, split):
    return [name for shard in sorted(home.glob(f"{split}-*")) for name in pq.read_table(shard)["file"].to_pylist()]


def crops(root, files):
    """uint8 (N, 3, 16, 16)."""
    return torch.from_numpy(np.stack([pictures.read(root / file, SIDE) for file in files]))


# Encoding


def test_latents_are_what_diffusers_makes_of_the_images(root, coder, folder):
    encode(root, coder, folder)
    net = net_of(coder)
    for split, count in (("train", 24), ("test", 6)):
        found = datasets.load("pets", split, folder)
        files = files_of(folder / "pets", split)
        assert len(found) == len(set(files)) == count
        assert [("ant", "bee", "cat")[label] for label in found.labels] == [file.split("/")[0] for file in files]
        assert found.moments.shape == (count, 2, 2, 4, 8, 8) and found.moments.dtype == torch.float16
        x = crops(root, files) / 127.5 - 1
        for view, images in enumerate((x, x.flip(-1))):
            with torch.no_grad():
                z = net.encode(images).latent_dist
            torch.testing.assert_close(found.moments[:, view, 0].float(), (z.mean - 0.25) * 0.5, atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(found.moments[:, view, 1].float(), z.std * 0.5, atol=2e-3, rtol=2e-3)
        assert not torch.allclose(found.moments[:, 0, 0].flip(-1), found.moments[:, 1, 0], atol=0.05)


def test_the_manifest_says_what_there_is(root, coder, folder, capsys):
    (root / "notes.txt").touch()
    manifest = encode(root, coder, folder)
    assert (manifest.channels, manifest.side, manifest.image_side) == (4, 8, 16)
    assert manifest.class_names == ("ant", "bee", "cat")
    assert manifest.counts == {"train": 24, "test": 6, "reference": 10}
    assert (manifest.scale, manifest.shift, manifest.autoencoder) == (0.5, 0.25, str(coder))
    assert manifest.autoencoder_digest == autoencoder.load(str(coder)).digest
    assert sorted(manifest.shards) == sorted(path.name for path in (folder / "pets").glob("*-*.parquet"))
    assert sorted(path.name for path in (folder / "pets").iterdir()) == sorted(
        [*manifest.shards, "autoencoder", "checked.parquet", "manifest.json"]
    )
    out = capsys.readouterr().out
    assert out.startswith("pets: 24 train, 6 test images of 3 classes (1 other files ignored) as 4x8x8 latents in ")
    assert out.count("\n") == 1
    known = DATASETS
    datasets.discover("pets", folder)
    assert known["pets"].shape == (4, 8, 8) and known["pets"].classes == 3 and not known["pets"].bounded
    assert known["pets"].digest == manifest.digest


def test_a_finished_dataset_is_left_as_it_is(root, coder, folder):
    first = encode(root, coder, folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "pets").rglob("*.*") if path.name != MANIFEST}
    assert encode(root, coder, folder) == first
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_missing_shard_alone_is_made_anew(root, coder, folder):
    first, home = encode(root, coder, folder), folder / "pets"
    before = {path: path.stat().st_mtime_ns for path in home.glob("*-*.parquet")}
    for name in ("train-00002.parquet", "reference-00001.parquet"):  # of the second, the pictures alone
        (home / name).unlink()
    assert encode(root, coder, folder) == first
    made = {path.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert made == {"train-00001.parquet", "train-00002.parquet", "reference-00001.parquet"}


def test_whether_training_flips_is_said_when_it_is_made(root, coder, folder, monkeypatch):
    flipped = encode(root, coder, folder)
    datasets.discover("pets", folder)
    assert datasets.flips(Data(dataset="pets"))
    monkeypatch.setattr(autoencoder.Autoencoder, "encode", lambda *_: pytest.fail("encoded anew"))
    plain = encode(root, coder, folder, flip=False)
    datasets.discover("pets", folder)
    assert not datasets.flips(Data(dataset="pets"))
    assert plain.shards == flipped.shards and plain.digest != flipped.digest  # no run goes on with the other
    assert encode(root, coder, folder) == flipped


def test_a_manifest_from_before_flips_were_asked_for_is_read(root, coder, folder):
    manifest, path = encode(root, coder, folder), folder / "pets" / MANIFEST
    kept = json.loads(path.read_text())
    assert kept.pop("flip") is True
    path.write_text(json.dumps(kept))
    assert datasets.load("pets", "train", folder).digest == manifest.digest
    assert datasets.flips(Data(dataset="pets"))
    of_shards = json.dumps(kept["shards"], sort_keys=True).encode()
    assert manifest.digest == hashlib.sha256(of_shards).hexdigest()  # as it was made then


@pytest.mark.parametrize("batches", [2, 5])
def test_a_killed_run_goes_on_after_its_last_shard(root, coder, folder, tmp_path, monkeypatch, batches):
    whole = encode(root, coder, tmp_path / "whole")
    once, asked = autoencoder.Autoencoder.encode, []

    def killed(self, images):
        if len(asked) == batches:
            raise KeyboardInterrupt
        return once(self, images)

    monkeypatch.setattr(autoencoder.Autoencoder, "encode", lambda self, x: asked.append(len(x)) or killed(self, x))
    with pytest.raises(SystemExit, match=r"^interrupted; the same command goes on from here$"):
        encode(root, coder, folder)
    home = folder / "pets"
    assert len(list(home.glob("train-*"))) == batches - 1 and not (home / MANIFEST).exists()
    with pytest.raises(ConfigError, match="unknown dataset 'pets'"):
        datasets.load("pets", "train", folder)
    (home / ".train-00003.parquet.99.tmp").write_bytes(b"half")  # as a signal that nothing can catch leaves it
    asked.clear()
    batches = 99
    assert encode(root, coder, folder).digest == whole.digest
    assert sum(asked) < 30 and not list(home.glob(".*"))


def test_a_batch_s_size_is_of_no_account(root, coder, folder, tmp_path, monkeypatch):
    encode(root, coder, folder)
    monkeypatch.setitem(latents.BATCH, "cpu", 3)
    encode(root, coder, tmp_path / "other")
    one, other = (datasets.load("pets", "train", place).moments for place in (folder, tmp_path / "other"))
    torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-3)


def test_progress_has_an_eta_in_a_log_too(monkeypatch):
    from rich.console import Console

    console, now = Console(file=io.StringIO(), width=100), [0.0]
    monkeypatch.setattr(latents.time, "monotonic", lambda: now[0])
    with meter("encoding", console) as tell:
        for done in (0, 10, 20):
            tell(done, 100)
            now[0] += 40
    lines = console.file.getvalue().splitlines()
    assert lines == ["encoding: 10 of 100, about 6:00 left", "encoding: 20 of 100, about 5:20 left"]


# Refusals


def test_another_source_autoencoder_or_side_is_refused(root, coder, folder, tmp_path):
    encode(root, coder, folder)
    message = refused(root, make_coder(tmp_path / "coder", seed=1), folder)
    assert "00000.parquet: made with another autoencoder (" in message and f"delete {folder / 'pets'}" in message
    assert "made with another autoencoder" in refused(root, make_coder(tmp_path / "c", 0, scaling_factor=0.3), folder)
    assert "made with another side (16, now 32)" in refused(root, coder, folder, side=32)
    assert "made with another reference (10, now 12)" in refused(root, coder, folder, reference=12)
    assert "made with another source (" in refused(root, coder, folder, seed=1)
    shutil.move(root / "ant" / "0.png", root / "bee" / "00.png")
    assert "made with another source (" in refused(root, coder, folder)
    assert len(datasets.load("pets", "train", folder)) == 24  # what there is, is as good as before


def test_a_shard_that_cannot_be_read_is_named(root, coder, folder):
    encode(root, coder, folder)
    bad = folder / "pets" / "train-00001.parquet"
    bad.write_bytes(bad.read_bytes()[:100])
    assert refused(root, coder, folder).startswith(f"{bad}: cannot be read (")
    bad.unlink()
    encode(root, coder, folder)


@pytest.mark.parametrize("content", ["nothing", "empty", "other", "lacking"])
def test_what_is_no_autoencoder_is_one_line(root, coder, folder, tmp_path, content):
    place = tmp_path / "coder"
    if content != "nothing":
        place.mkdir()
    if content == "other":
        (place / "config.json").write_text('{"_class_name": "AutoencoderKL", "block_out_channels": "many"}')
    if content == "lacking":
        from safetensors.torch import load_file, save_file

        shutil.copytree(coder, place, dirs_exist_ok=True)
        file = place / "diffusion_pytorch_model.safetensors"
        save_file({k: v for k, v in load_file(file).items() if not k.startswith("decoder")}, file)
    message = refused(root, place, folder)
    assert message.startswith(f"autoencoder: '{place}' ") and "allowed: a folder that diffusers saved" in message
    assert ("lacks" in message) == (content == "lacking")
    assert not folder.exists()


def test_sides_and_names_that_will_not_do_are_one_line(root, coder, folder):
    assert refused(root, coder, folder, side=15) == "side: 15 pixels; allowed with this autoencoder: multiples of 2"
    assert "side: 0" in refused(root, coder, folder, side=0)
    for name in ("", "../pets", "a/b", ".pets"):
        assert refused(root, coder, folder, name=name).startswith(f"name: '{name}' cannot be a dataset's")
    assert "'cifar10' is a dataset of 3x32x32 already" in refused(root, coder, folder, name="cifar10")
    wanted = "'imagenet-256-latents' is a dataset of 4x32x32 already, these latents are 4x8x8"
    assert wanted in refused(root, coder, folder, name="imagenet-256-latents")
    assert not folder.exists()


def test_a_corrupt_image_is_named_before_any_encoding(root, coder, folder, monkeypatch):
    monkeypatch.setattr(autoencoder.Autoencoder, "encode", lambda *_: pytest.fail("encoded"))
    (root / "bee" / "4.jpg").write_bytes((root / "bee" / "4.jpg").read_bytes()[:300])
    assert refused(root, coder, folder).startswith(f"1 of 30 images cannot be read: {root / 'bee' / '4.jpg'} (")


def test_latents_that_are_not_finite_are_refused(root, folder, tmp_path, coder):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(coder, tmp_path / "broken")
    file = broken / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"quant_conv.bias": torch.full((8,), torch.nan)}, file)
    assert "not finite" in refused(root, broken, folder)


def test_the_command_is_one_line_and_waits_for_diffusers_only_when_it_must(tmp_path):
    code = "import sys, harness.data.latents as it; print('diffusers' in sys.modules); sys.argv[1:] = sys.argv[2:]"
    command = [sys.executable, "-c", f"{code}; it.typer.run(it.main)", "-", str(tmp_path), "--name", "pets"]
    done = subprocess.run(
        [*command, "--autoencoder", str(tmp_path / "none"), "--folder", str(tmp_path)], cwd=ROOT,
        capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == "False\n"
    assert done.stderr.startswith(f"error: autoencoder: '{tmp_path / 'none'}' cannot be loaded")
    assert done.stderr.count("\n") == 1


# Loading


def test_latents_are_mapped_from_one_file_that_is_made_once(root, coder, folder):
    encode(root, coder, folder)
    first = datasets.load("pets", "train", folder)
    maps = {path: path.stat().st_mtime_ns for path in (folder / "pets" / "mapped").iterdir()}
    assert len(maps) == 2 and all(first.digest[:16] in path.name for path in maps)
    datasets._splits.cache_clear()
    second = datasets.load("pets", "train", folder)
    assert second is not first and torch.equal(second.moments, first.moments)
    assert {path: path.stat().st_mtime_ns for path in maps} == maps
    second.moments[0] = 0  # its own pages: neither the file nor another worker sees it
    datasets._splits.cache_clear()
    assert torch.equal(datasets.load("pets", "train", folder).moments, first.moments)


@pytest.mark.parametrize("column", ["label", "moments"])
def test_a_shard_of_other_content_is_found_when_it_is_mapped(root, coder, folder, column):
    encode(root, coder, folder)
    path = folder / "pets" / "train-00001.parquet"
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, table[column].combine_chunks()[::-1]), path)
    message = unloadable(folder)
    assert message.startswith(f"{path}: content digest ") and "delete it and run `make latents` again" in message


@pytest.mark.parametrize("name", ["train-00001.parquet", "manifest.json", "mapped", "autoencoder"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_damaged_dataset_is_one_line(root, coder, folder, name, gone):
    encode(root, coder, folder)
    datasets.load("pets", "train", folder)
    path = folder / "pets" / name
    for file in path.iterdir() if path.is_dir() else [path]:
        if gone:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if name == "mapped" and gone:  # may be deleted
        assert len(datasets.load("pets", "train", folder)) == 24
        return
    DATASETS.pop("pets")  # as in a process of its own
    message = unloadable(folder)
    assert ("unknown dataset 'pets'" if (name, gone) == ("manifest.json", True) else name) in message
    if name != "mapped":  # which is put right by deleting it
        if name.startswith("train"):
            path.unlink(missing_ok=True)
        encode(root, coder, folder)
        datasets._splits.cache_clear()
        assert len(datasets.load("pets", "train", folder)) == 24


def test_samples_are_never_decoded_by_another_autoencoder(root, coder, folder, tmp_path):
    encode(root, coder, folder)
    shutil.copytree(make_coder(tmp_path / "other", seed=5), folder / "pets" / "autoencoder", dirs_exist_ok=True)
    assert "autoencoder: digest " in unloadable(folder)
    encode(root, coder, folder)  # puts it back
    datasets._splits.cache_clear()
    datasets.load("pets", "train", folder)


@pytest.mark.parametrize(("name", "side"), [("imagenet-256-latents", 32), ("imagenet-512-latents", 64)])
def test_the_paper_s_datasets_are_made_like_any_other(root, coder, folder, name, side):
    """Until it is there it can be planned for; its latents are 4x32x32, here of 64 pixels, the other's twice that."""
    datasets.discover(name, folder)
    assert datasets.lookup(name).classes == 1000
    assert f"make latents NAME={name}" in unloadable(folder, name)
    encode(root, coder, folder, name=name, side=2 * side)
    assert datasets.load(name, "train", folder).images.shape == (24, 4, side, side)
    assert datasets.lookup(name).classes == 3


# Training


def test_a_mirrored_example_is_the_mirrored_image_s(root, coder, folder):
    encode(root, coder, folder)
    train = datasets.load("pets", "train", folder)
    chosen, mirrored = torch.tensor([3, 3, 0, 5]), torch.tensor([False, True, True, False])
    x = train.examples(chosen, mirrored, "cpu", generator("cpu", 1))
    noise = torch.randn(x.shape, generator=generator("cpu", 1))
    mean, std = (train.moments[chosen, mirrored.long(), kind].float() for kind in (0, 1))
    assert x.dtype == torch.float32 and torch.equal(x, mean + std * noise)
    plain = train.examples(chosen, None, "cpu", generator("cpu", 1))
    assert torch.equal(plain, train.moments[chosen, 0, 0].float() + train.moments[chosen, 0, 1].float() * noise)


def test_each_use_draws_from_the_posterior_anew(root, coder, folder):
    encode(root, coder, folder)
    train = datasets.load("pets", "train", folder)
    rng = generator("cpu", 0)
    many = torch.stack([train.examples(torch.arange(4), None, "cpu", rng) for _ in range(400)])
    torch.testing.assert_close(many.std(0), train.moments[:4, 0, 1].float(), atol=0, rtol=0.2)
    torch.testing.assert_close(many.mean(0), train.images[:4].float(), atol=0.15, rtol=0)


def test_batches_of_latents_are_as_reproducible_as_any(tiny, root, coder, folder):
    encode(root, coder, folder)
    cell, train = tiny(data__dataset="pets", train__batch=8), datasets.load("pets", "train", folder)
    objective = objectives.objective(cell.diffusion)
    first, again, later = (draw(train, cell, objective, at, 3, "cpu") for at in (16, 16, 24))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (8, 4, 8, 8) and not torch.equal(first[0], later[0])
    half = train.first(12, "cpu")
    assert len(half) == 12 and torch.equal(half.moments, train.moments[:12])


def test_latents_are_not_normalised_again(root, coder, folder):
    encode(root, coder, folder)
    means = datasets.load("pets", "test", folder).images
    assert torch.equal(normalise(means), means.float())


# Pictures


def test_the_reference_is_the_first_training_images_as_cropped(root, coder, folder):
    encode(root, coder, folder)
    found = datasets.reference("pets", 10, folder)
    expected = crops(root, files_of(folder / "pets", "train")[:10])
    assert len(found) == 10 and found.images.shape == (10, 3, 16, 16)
    for i in (0, 9, 3, 6, 7, 2, 8, 1, 5, 4):  # any order, over shards and row groups
        assert torch.equal(found.images[i], expected[i]) and found.images[i].dtype == torch.uint8
    assert found.labels.tolist() == datasets.load("pets", "train", folder).labels[:10].tolist()
    with pytest.raises(ConfigError, match=r"^evaluate.reference: 11 exceeds the 10 pictures that were kept of pets; "):
        datasets.reference("pets", 11, folder)


def test_all_training_images_are_enough_of_a_reference(root, coder, folder):
    assert encode(root, coder, folder, reference=50_000).counts["reference"] == 24
    assert len(datasets.reference("pets", 50_000, folder)) == 24


def test_samples_are_decoded_as_diffusers_would(root, coder, folder):
    encode(root, coder, folder)
    datasets.discover("pets", folder)
    x = torch.randn(11, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = datasets.lookup("pets").to_pixels(x)  # more than a batch
    with torch.no_grad():
        expected = net_of(coder).decode(x / 0.5 + 0.25).sample
    assert found.shape == (11, 3, 16, 16) and found.dtype == torch.uint8
    assert (found.float() - ((expected + 1) * 127.5).clamp(0, 255)).abs().max() < 0.51
    assert found.float().std() > 5  # not all grey


# Trials


def test_a_whole_trial_trains_on_latents_and_is_measured_on_pictures(tiny, place, root, coder, folder):
    manifest = encode(root, coder, folder, reference=24)
    assert place.data == folder
    cell, sink = tiny(data__dataset="pets", train__images=64, evaluate__reference=20), Memory()
    run(cell, sink, place, "cpu")
    measured = {images: metrics for images, metrics in sink.metrics if "fid" in metrics}
    assert tuple(measured) == (32, 64)
    for metrics in measured.values():
        absent = {"sfid", "diffusion_loss"}  # of the latter: six held-out images are fewer than its levels of noise
        assert set(record.QUALITY) <= set(metrics) | absent
        assert all(np.isfinite(value) for value in metrics.values())
    assert any(f"pets-{manifest.digest[:16]}-train-16px-20" in path.name for path in place.cache.iterdir())
    sheets = [content for name, content in sink.files if name.startswith(record.SAMPLES)]
    assert len(sheets) == 2
    sheet = Image.open(io.BytesIO(sheets[-1]))
    assert sheet.size == (5 * 2 * 16, 3 * 2 * 16)  # of 16 pixels, at twice their size
    assert not np.array_equal(*(np.asarray(sheet)[..., channel] for channel in (0, 1)))  # in colour
    assert cost(cell).tokens == 4


def test_the_distance_is_between_pictures(tiny, place, root, coder, folder, monkeypatch):
    """A model that knew the training images' own pictures would be at none."""
    from harness.metrics.base import Samples, Subject
    from harness.metrics.fidelity import fidelity
    from harness.models.registry import build
    from harness.trial import bench

    encode(root, coder, folder, reference=24)
    cell = tiny(data__dataset="pets", evaluate__samples=24, evaluate__reference=24)
    against = bench(cell, place)
    reals = torch.stack([against.real.images[i] for i in range(24)])
    subject = Subject(build(cell.model, 4, 8, 3, 8, seed=0).eval(), cell, "cpu")
    assert subject.generate(0, 6).shape == (6, 3, 16, 16)
    monkeypatch.setattr(Subject, "generate", lambda self, start, count: reals[start : start + count])
    assert abs(dict(fidelity(subject, against, Samples(subject)))["fid"]) < 1e-6


def test_a_sweep_finds_latents_by_name(root, coder, folder, tmp_path):
    def status(settings):
        options = ["--scale", "smoke", "--set", settings, "--out", str(tmp_path / "out"), "--data", str(folder)]
        return CliRunner().invoke(door.app, ["status", "smoke", *options])

    assert "unknown dataset 'pets'" in status("data.dataset=pets").output
    encode(root, coder, folder)
    assert "does not divide the side 8" in status("data.dataset=pets model.patch=16").output
    done = status("data.dataset=pets model.patch=4")
    assert done.exit_code == 0 and done.output.startswith("to do")
