"""A folder of images: which files, classes and splits are found, in which order, and what is cut out of one."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from harness.data import pictures
from harness.errors import ConfigError


def photo(seed, size=(24, 20)):
    """Something of its own for every seed: large soft blobs, so that a lossy format stays near it."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def root(tmp_path):
    """Three classes of ten images each, in all formats."""
    for label, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(10):
            suffix = (".png", ".jpg", ".JPEG", ".webp")[n % 4]
            photo(10 * label + n).save(tmp_path / "photos" / name / f"{n}{suffix}")
    return tmp_path / "photos"


def scan(root, held_out=0.2, seed=0, tell=lambda done, total: None):
    return pictures.scan(root, held_out, seed, root.parent / "checked.parquet", tell)


def refused(root, **options):
    """The one line that a folder is refused with."""
    with pytest.raises(ConfigError) as caught:
        scan(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is found


def test_folders_are_classes_and_a_share_is_held_out(root):
    source = scan(root)
    assert source.class_names == ("ant", "bee", "cat") and source.ignored == 0
    assert {split: len(found) for split, found in source.splits.items()} == {"train": 24, "test": 6}
    every = [picture for found in source.splits.values() for picture in found]
    assert len({picture.file for picture in every}) == len({picture.sha256 for picture in every}) == 30
    for picture in every:
        assert (root / picture.file).parent.name == source.class_names[picture.label]


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_splits_of_their_own_are_kept(root, held_out):
    for name in ("ant", "bee", "cat"):
        (root / held_out / name).mkdir(parents=True)
        for n in range(2):
            shutil.move(next((root / name).glob(f"{n}.*")), root / held_out / name)
        shutil.move(root / name, root / "train" / name)
    source = scan(root)
    assert source.class_names == ("ant", "bee", "cat")
    assert {split: len(found) for split, found in source.splits.items()} == {"train": 24, "test": 6}
    assert all(picture.file.startswith(f"{held_out}/") for picture in source.splits["test"])
    assert [p.file.split("/")[1] == source.class_names[p.label] for p in source.splits["test"]] == [True] * 6


def test_other_files_are_ignored_and_counted(root):
    for file in ("notes.txt", "stray.png", "ant/list.csv", "ant/._0.png", "ant/old.gif"):
        (root / file).touch()
    (root / ".cache").mkdir()
    (root / ".cache" / "thumb.png").touch()
    (root / "bee" / "more").mkdir()
    photo(99).save(root / "bee" / "more" / "deep.png")  # of the class above it
    source = scan(root)
    assert source.ignored == 5 and source.class_names == ("ant", "bee", "cat")
    assert sum(map(len, source.splits.values())) == 31
    assert [p.label for found in source.splits.values() for p in found if p.file == "bee/more/deep.png"] == [1]


def test_what_is_no_folder_of_images_is_one_line(root, tmp_path):
    assert refused(tmp_path / "none").startswith(f"{tmp_path / 'none'}: no such folder")
    (tmp_path / "empty").mkdir()
    assert "no class folders; expected images (.png, .jpg, .jpeg, .webp)" in refused(tmp_path / "empty")
    (root / "dog").mkdir()
    assert refused(root).startswith(f"{root / 'dog'}: no images")
    (root / "dog").rmdir()
    (root / "train").mkdir()
    (root / "val").mkdir()
    shutil.move(root / "ant", root / "train" / "ant")
    shutil.move(root / "bee", root / "val" / "bee")
    assert refused(root).startswith(f"{root / 'val' / 'bee'}: not one of the classes")


def test_too_few_to_hold_some_out_is_one_line(tmp_path):
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    for copy in range(3):
        photo(0).save(tmp_path / "photos" / "ant" / f"{copy}.png")
    assert "3 images are too few to train on and to hold some out" in refused(tmp_path / "photos")


# Order


def test_order_and_hold_out_follow_content_and_seed_alone(root, tmp_path):
    source = scan(root)
    (tmp_path / "again" / "cat").mkdir(parents=True)
    for name in ("cat", "ant", "bee"):
        (tmp_path / "again" / name).mkdir(exist_ok=True)
        for n, file in enumerate(sorted((root / name).iterdir(), reverse=True)):
            shutil.copy(file, tmp_path / "again" / name / f"renamed-{n}{file.suffix}")
    again = scan(tmp_path / "again")
    assert again.digest == source.digest
    assert [p.sha256 for p in again.splits["test"]] == [p.sha256 for p in source.splits["test"]]
    other = scan(root, seed=1)
    assert other.digest != source.digest
    assert {p.sha256 for p in other.splits["test"]} != {p.sha256 for p in source.splits["test"]}


def test_the_first_images_are_of_all_classes(root):
    assert {picture.label for picture in scan(root).splits["train"][:10]} == {0, 1, 2}


def test_copies_of_a_picture_are_on_one_side(tmp_path):
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    for n in range(12):
        photo(n // 4).save(tmp_path / "photos" / "ant" / f"{n}.png")  # three pictures, four times each
    splits = scan(tmp_path / "photos", held_out=0.1).splits
    assert {split: len(found) for split, found in splits.items()} == {"train": 8, "test": 4}


def test_a_digest_tells_content_labels_and_classes(root):
    digests = {scan(root).digest}
    shutil.move(root / "ant" / "0.png", root / "bee" / "moved.png")
    digests.add(scan(root).digest)
    photo(77).save(root / "bee" / "moved.png")
    digests.add(scan(root).digest)
    (root / "bee").rename(root / "bug")
    digests.add(scan(root).digest)
    assert len(digests) == 4


# Checking


def test_images_that_cannot_be_read_are_named(root):
    for n, name in enumerate(("ant", "bee", "cat")):
        file = next((root / name).glob(f"{n}.*"))
        file.write_bytes(file.read_bytes()[:-40])
    message = refused(root)
    assert message.startswith("3 of 30 images cannot be read: ") and message.endswith("and run again")
    for file in ("ant/0.png", "bee/1.jpg", "cat/2.JPEG"):
        assert f"{root / file} (" in message
    (root / "cat" / "3.webp").write_bytes(b"")
    assert "and 1 more" in refused(root)


def test_what_was_checked_is_not_read_again(root, monkeypatch):
    read, check = [], pictures._check
    monkeypatch.setattr(pictures, "_check", lambda path: read.append(path) or check(path))
    told = []
    source = scan(root, tell=lambda done, total: told.append((done, total)))
    assert len(read) == 30 and told == [(n, 30) for n in range(1, 31)]
    assert scan(root).digest == source.digest and len(read) == 30
    photo(50).save(root / "ant" / "0.png")
    photo(51).save(root / "ant" / "new.png")
    changed = scan(root)
    assert sorted(path.name for path in read[30:]) == ["0.png", "new.png"] and changed.digest != source.digest
    (root.parent / "checked.parquet").write_bytes(b"PAR1 damaged")
    assert scan(root).digest == changed.digest and len(read) == 32 + 31


def test_a_bad_image_costs_the_good_ones_nothing(root, monkeypatch):
    (root / "ant" / "0.png").write_bytes(b"no picture")
    refused(root)
    os.remove(root / "ant" / "0.png")
    monkeypatch.setattr(pictures, "_check", lambda path: pytest.fail(f"{path} was read again"))
    assert len(scan(root).splits["train"]) == 23


def test_work_ahead_keeps_its_order(monkeypatch):
    monkeypatch.setattr(pictures, "AHEAD", 3)
    started = []
    results = pictures.ahead(lambda n: started.append(n) or n * n, iter(range(50)))
    assert next(results) == 0
    assert len(started) <= 4  # and no further than asked
    assert list(results) == [n * n for n in range(1, 50)]


# Crops


def test_a_square_of_the_right_size_is_left_alone():
    image = photo(0, (16, 16))
    assert np.array_equal(pictures.crop(image, 16).transpose(1, 2, 0), np.asarray(image))


def test_twice_the_size_is_averaged():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    means = pixels.reshape(16, 2, 16, 2, 3).mean((1, 3))
    found = pictures.crop(Image.fromarray(pixels), 16).transpose(1, 2, 0)
    assert np.abs(found - means).max() <= 1  # rounded twice


def test_a_large_image_is_halved_and_then_bicubic():
    image = photo(3, (90, 70))  # halved twice: 22 x 17, then bicubic to 21 x 16
    halved = image.resize((45, 35), Image.Resampling.BOX).resize((22, 17), Image.Resampling.BOX)
    expected = np.asarray(halved.resize((21, 16), Image.Resampling.BICUBIC))[:, 2:18]
    assert np.array_equal(pictures.crop(image, 16).transpose(1, 2, 0), expected)


@pytest.mark.parametrize("upright", [False, True])
def test_the_middle_is_kept(upright):
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 255
    found = pictures.crop(Image.fromarray(pixels.transpose(1, 0, 2) if upright else pixels), 16)
    assert found.shape == (3, 16, 16) and (found == 255).all()


def test_a_small_image_is_enlarged():
    assert pictures.crop(photo(0, (9, 7)), 16).shape == (3, 16, 16)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    photo(0).convert(mode).save(path)
    assert pictures.read(path, 16).shape == (3, 16, 16)


def test_pngs_lose_nothing():
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    assert np.array_equal(pictures.from_png(pictures.to_png(image)), image)


def test_an_image_that_went_bad_meanwhile_is_one_line(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"a\.png: cannot be read \(.*\) any more; put it back and run again$"):
        pictures.read(tmp_path / "a.png", 16)
