"""Data: tiny IDX files made here stand for the real ones; nothing in this file touches the network."""

import dataclasses
import gzip
import hashlib
import os
import pickle
import struct
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from harness.data import fashion_mnist
from harness.data import registry as datasets
from harness.data.base import SPLITS, normalise, to_rgb, to_uint8
from harness.data.files import parquet_path
from harness.data.registry import DATASETS
from harness.errors import ConfigError

ROOT = Path(__file__).parents[1]
COUNTS = {"train": 12, "test": 5}


@pytest.fixture(autouse=True)
def _no_memory():
    datasets._splits.cache_clear()
    yield
    datasets._splits.cache_clear()


@pytest.fixture
def offline(monkeypatch):
    def refuse(source):
        def fail(scratch):
            raise RuntimeError(f"{source}: no network")

        return fail

    monkeypatch.setattr(fashion_mnist, "_from_torchvision", refuse("torchvision"))
    monkeypatch.setattr(fashion_mnist, "_from_debian", refuse("apt-get"))


@pytest.fixture
def folder(tmp_path, monkeypatch, offline):
    """A data folder with the four IDX files of a tiny Fashion-MNIST, which the registry expects."""
    write_idx(tmp_path / "fashion-mnist", monkeypatch)
    return tmp_path


def write_idx(place, monkeypatch):
    rng = np.random.default_rng(0)
    place.mkdir(parents=True)
    table = {}
    for name, (split, kind, _) in fashion_mnist.IDX.items():
        shape = (COUNTS[split], 28, 28) if kind == "images" else (COUNTS[split],)
        values = rng.integers(1, 256 if kind == "images" else 10, shape, np.uint8)
        raw = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}i", *shape) + values.tobytes()
        (place / name).write_bytes(gzip.compress(raw))
        table[name] = (split, kind, hashlib.sha256(raw).hexdigest())
    monkeypatch.setattr(fashion_mnist, "IDX", table)
    expect_digest(monkeypatch, "fashion-mnist", "")


def expect_digest(monkeypatch, name, digest):
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], digest=digest))


def edit(path, change):
    path.write_bytes(change(path.read_bytes()))


def refused(folder, name="fashion-mnist"):
    """The one line that loading a dataset is refused with."""
    datasets._splits.cache_clear()
    with pytest.raises(ConfigError) as caught:
        datasets.load(name, "train", folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_images_are_padded_with_zeros_and_labels_follow(folder):
    raw = gzip.decompress((folder / "fashion-mnist" / "train-images-idx3-ubyte.gz").read_bytes())
    original = torch.frombuffer(bytearray(raw[16:]), dtype=torch.uint8).reshape(12, 1, 28, 28)
    raw = gzip.decompress((folder / "fashion-mnist" / "train-labels-idx1-ubyte.gz").read_bytes())

    train = datasets.load("fashion-mnist", "train", folder)

    assert train.images.shape == (12, 1, 32, 32) and train.images.dtype == torch.uint8
    assert torch.equal(train.images[..., 2:30, 2:30], original)
    assert train.images.sum() == original.sum()  # the border holds nothing
    assert train.labels.dtype == torch.int64 and train.labels.tolist() == list(raw[8:])
    assert len(datasets.load("fashion-mnist", "test", folder)) == 5


def test_parquet_gives_the_same_images_when_the_originals_are_gone(folder):
    before = datasets.load("fashion-mnist", "train", folder)
    for file in (folder / "fashion-mnist").iterdir():
        file.unlink()
    datasets._splits.cache_clear()
    after = datasets.load("fashion-mnist", "train", folder)
    assert torch.equal(before.images, after.images) and torch.equal(before.labels, after.labels)
    assert before.digest == after.digest
    assert sorted(p.name for p in folder.iterdir()) == ["fashion-mnist", "fashion-mnist.parquet"]  # no leftovers


def test_a_split_is_read_once_a_process(folder):
    assert datasets.load("fashion-mnist", "train", folder) is datasets.load("fashion-mnist", "train", str(folder))


@pytest.mark.parametrize("place", ["fashion-mnist", "FashionMNIST/raw"])
def test_unpacked_files_do_as_well(tmp_path, monkeypatch, offline, place):
    write_idx(tmp_path / place, monkeypatch)
    for file in (tmp_path / place).iterdir():
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert len(datasets.load("fashion-mnist", "train", tmp_path)) == 12


@pytest.mark.parametrize(
    "change", [lambda b: b[:-40], lambda b: b"", lambda b: b"not gzip", lambda b: gzip.compress(b)]
)
def test_a_corrupt_original_is_named(folder, change):
    bad = folder / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    edit(bad, change)
    message = refused(folder)
    assert message.startswith(f"{bad}: corrupt (") and message.endswith("delete it and run again")
    assert not (folder / "fashion-mnist.parquet").exists()


def test_one_flipped_bit_in_an_original_is_found(folder):
    bad = folder / "fashion-mnist" / "t10k-images-idx3-ubyte"
    raw = gzip.decompress(bad.with_suffix(".gz").read_bytes())
    bad.with_suffix(".gz").unlink()
    bad.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert "sha256" in refused(folder)


def test_nothing_at_hand_says_what_was_tried_and_what_to_do(folder):
    (folder / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").unlink()  # three of four files are none
    message = refused(folder)
    for words in (
        "fashion-mnist.parquet",
        "torchvision: no network",
        "apt-get: no network",
        "t10k-labels-idx1-ubyte.gz",
    ):
        assert words in message


@pytest.mark.parametrize(
    "change",
    [lambda b: b"", lambda b: b"PAR1" + b"\0" * 100, lambda b: b[: len(b) // 2], lambda b: b[:100] + b[200:]],
    ids=["empty", "garbage", "cut", "hole"],
)
def test_a_corrupt_parquet_is_named(folder, change):
    datasets.load("fashion-mnist", "train", folder)
    edit(folder / "fashion-mnist.parquet", change)
    message = refused(folder)
    assert message.startswith(f"{folder / 'fashion-mnist.parquet'}: ") and "delete it and run again" in message


def test_a_parquet_of_something_else_is_refused(folder):
    datasets.load("fashion-mnist", "train", folder)
    path = folder / "fashion-mnist.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop(["image"]), path)
    assert "image" in refused(folder)
    pq.write_table(table.replace_schema_metadata(None), path)
    assert "content-sha256" in refused(folder)
    pq.write_table(table, folder / "cifar10.parquet")
    assert "expected 3072 bytes" in refused(folder, "cifar10")


def test_changed_content_is_found_by_its_digest(folder):
    datasets.load("fashion-mnist", "train", folder)
    path = folder / "fashion-mnist.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "label", table["label"].combine_chunks()[::-1]), path)
    assert "content digest" in refused(folder)


def test_the_registry_s_digest_binds(folder, monkeypatch):
    digest = datasets.load("fashion-mnist", "train", folder).digest
    expect_digest(monkeypatch, "fashion-mnist", "0" * 64)
    assert f"content digest {digest[:12]}, expected {'0' * 12}" in refused(folder)
    (folder / "fashion-mnist.parquet").unlink()
    assert f"content digest {digest[:12]}, expected {'0' * 12}" in refused(folder)
    assert not (folder / "fashion-mnist.parquet").exists()


def test_an_unwritable_folder_is_named(folder, monkeypatch):
    (folder / "file").write_text("in the way")
    message = refused(folder / "file" / "data")
    assert "cannot be written" in message and str(folder / "file") in message


def test_unknown_names_list_the_known():
    with pytest.raises(ConfigError, match=r"data.dataset: unknown dataset 'mnist'; allowed: fashion-mnist, cifar10"):
        datasets.lookup("mnist")
    with pytest.raises(ConfigError, match=r"unknown split 'val' of fashion-mnist; allowed: train, test"):
        datasets.load("fashion-mnist", "val", "data")


def test_latents_can_be_planned_for_but_not_loaded(tmp_path):
    latents = datasets.lookup("imagenet-256-latents")
    assert (latents.shape, latents.classes, latents.bounded) == ((4, 32, 32), 1000, False)
    message = refused(tmp_path, "imagenet-256-latents")
    assert str(tmp_path / "imagenet-256-latents" / "manifest.json") in message and "make latents" in message


def test_cifar10_comes_through_torchvision(tmp_path, monkeypatch):
    import torchvision.datasets

    def fake(root, train, download):
        images = np.arange(3 * 32 * 32 * 3, dtype=np.uint8).reshape(3, 32, 32, 3)
        return types.SimpleNamespace(data=images, targets=[1, 2, 3] if train else [4, 5, 6])

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake)
    train = datasets.load("cifar10", "train", tmp_path)
    assert train.images.shape == (3, 3, 32, 32) and train.labels.tolist() == [1, 2, 3]
    assert train.images[0, :, 0, 1].tolist() == [3, 4, 5]  # the second pixel's three channels

    def unreachable(root, train, download):
        raise RuntimeError("Dataset not found")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", unreachable)
    (tmp_path / "cifar10.parquet").unlink()
    assert "cifar-10-python.tar.gz" in refused(tmp_path, "cifar10")


def test_cifar10_s_own_files_are_read_as_they_are_laid_out(tmp_path, monkeypatch):
    """A batch is a pickle of images in rows: 1024 values of red, then of green, then of blue."""
    from torchvision.datasets import CIFAR10

    place, listed = tmp_path / "cifar-10-batches-py", {}
    place.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    for name, content in {
        "data_batch_1": {"data": rows, "labels": [6, 9]},
        "test_batch": {"data": rows[:1], "labels": [3]},
        "batches.meta": {"label_names": list(DATASETS["cifar10"].class_names)},
    }.items():
        (place / name).write_bytes(pickle.dumps(content))
        listed[name] = hashlib.md5((place / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", listed["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", listed["test_batch"]]])
    monkeypatch.setitem(CIFAR10.meta, "md5", listed["batches.meta"])
    train, test = (datasets.load("cifar10", split, tmp_path) for split in SPLITS)
    assert np.array_equal(train.images.numpy(), rows.reshape(2, 3, 32, 32)) and train.labels.tolist() == [6, 9]
    assert len(test) == 1 and test.labels.tolist() == [3]


def test_debian_s_package_is_unpacked_without_root_even_where_apt_has_no_lists(tmp_path, monkeypatch):
    """Stand-ins for the two commands: the first download finds no package, as on a machine without lists."""
    package = tmp_path / "package"
    write_idx(package / "usr" / "share" / "datasets" / "fashion-mnist", monkeypatch)
    tools = tmp_path / "tools"
    tools.mkdir()
    log = tmp_path / "log"
    for name, body in {
        "apt-get": f"""echo "$@" >> {log}
            case "$*" in
              *update) touch {tmp_path}/lists ;;
              *download*) [ -e {tmp_path}/lists ] || {{ echo "E: Unable to locate package" >&2; exit 100; }}
                touch dataset-fashion-mnist_all.deb ;;
            esac""",
        "dpkg-deb": f'cp -r {package} "$3"',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def unreachable(scratch):
        raise RuntimeError("torchvision: no network")

    monkeypatch.setattr(fashion_mnist, "_from_torchvision", unreachable)
    folder = tmp_path / "data"
    assert len(datasets.load("fashion-mnist", "train", folder)) == 12
    assert [p.name for p in folder.iterdir()] == ["fashion-mnist.parquet"]
    assert len(log.read_text().splitlines()) == 3  # download, update, download

    (folder / "fashion-mnist.parquet").unlink()
    (tools / "dpkg-deb").write_text('#!/bin/sh\nmkdir "$3"\n')
    assert "fashion-mnist: not the four files" in refused(folder)
    (tools / "apt-get").write_text('#!/bin/sh\necho "E: Temporary failure resolving" >&2; exit 100\n')
    assert "apt-get: E: Temporary failure resolving" in refused(folder)
    monkeypatch.setenv("PATH", str(package))
    assert "apt-get: No such file" in refused(folder)


def test_pixels_and_floats():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x = normalise(pixels)
    assert x.dtype == torch.float32 and (x.min(), x.max()) == (-1, 1)
    assert torch.equal(to_uint8(x), pixels)
    assert to_uint8(torch.tensor([-3.0, -1.0, 1.0, 7.0])).tolist() == [0, 0, 255, 255]
    assert to_uint8(torch.tensor([0.999], dtype=torch.bfloat16)).dtype == torch.uint8
    assert to_rgb(pixels).shape == (1, 3, 16, 16) == to_rgb(to_rgb(pixels)).shape


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda d: d.name)
def test_every_entry_is_consistent(dataset):
    assert DATASETS[dataset.name] is dataset
    assert len(dataset.class_names) in (0, dataset.classes)
    assert dataset.digest == "" or len(dataset.digest) == 64


def test_command_line_prints_one_line(folder):
    done = subprocess.run(
        [sys.executable, "-m", "harness.data", "minst", "--folder", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "error: data.dataset: unknown dataset 'minst'; allowed: " + ", ".join(DATASETS) + "\n"


def test_the_real_fashion_mnist():
    """Where `make` has put it: the content is what the registry says, and it is there in a second."""
    folder = Path(os.environ.get("DATA", ROOT / "data"))
    if not parquet_path("fashion-mnist", folder).exists():
        pytest.skip(f"no {parquet_path('fashion-mnist', folder)}: make it with `make data`")
    start = time.perf_counter()
    train, test = (datasets.load("fashion-mnist", split, folder) for split in SPLITS)
    seconds = time.perf_counter() - start
    assert train.images.shape == (60_000, 1, 32, 32) and test.images.shape == (10_000, 1, 32, 32)
    assert train.labels.bincount().tolist() == [6_000] * 10 and test.labels.bincount().tolist() == [1_000] * 10
    assert train.labels[:4].tolist() == [9, 0, 0, 3]  # boot, two tops, dress: the published order
    assert seconds < 3  # 0.4 s on two idle cores
