"""load, its splits and its errors; preprocessing_for; summary."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.folders import image_folder, write_parquet
from tests.support.images import encode, noise, png_bomb, smooth
from vitrail.config import DataConfig, Preprocessing
from vitrail.data import ImageSet, load, load_image, preprocessing_for, summary
from vitrail.data.order import hold_out
from vitrail.data.sources import open_source
from vitrail.errors import ConfigError, DataError

DIGITS = DataConfig(spec="digits", image_size=8)


def config(path: Path, **changes: object) -> DataConfig:
    return DataConfig(spec=str(path), image_size=6, **changes)  # type: ignore[arg-type]


def same(first: ImageSet, second: ImageSet) -> bool:
    return np.array_equal(first.images, second.images) and first.fingerprint == second.fingerprint


# ---- splits ------------------------------------------------------------------------------------------------------


def test_validation_is_held_out_of_training_when_both_are_wanted() -> None:
    alone = load(DIGITS, ["train"])["train"]
    both = load(DIGITS, ["train", "val", "test"])
    assert len(alone) == 1438
    assert len(both["val"]) == 144
    assert sorted([*both["train"].ids, *both["val"].ids]) == list(range(1438))
    np.testing.assert_array_equal(alone.images[both["val"].ids], both["val"].images)
    np.testing.assert_array_equal(alone.labels[both["train"].ids], both["train"].labels)
    assert [alone.names[i] for i in both["val"].ids] == list(both["val"].names)
    assert same(load(DIGITS, ["val"])["val"], both["val"])
    per_class = np.bincount(both["val"].labels)
    assert np.abs(per_class - np.bincount(alone.labels) * 0.1).max() < 1


def test_the_hold_out_follows_seed_and_fraction() -> None:
    def held(**changes: object) -> list[int]:
        changed = DataConfig(spec="digits", image_size=8, **changes)  # type: ignore[arg-type]
        return load(changed, ["val"])["val"].ids.tolist()

    assert held() == held(seed=0)
    assert held() != held(seed=1)
    assert len(held(validation_fraction=0.3)) == round(0.3 * 1438)


def test_a_split_of_the_source_is_taken_as_it_is(tmp_path: Path) -> None:
    image_folder(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 2})
    sets = load(config(tmp_path), ["train", "val"])
    assert (len(sets["train"]), len(sets["val"])) == (8, 3)


def test_all_is_everything(tmp_path: Path) -> None:
    flat = load(config(image_folder(tmp_path / "flat", {"a": 3, "b": 2})), ["all"])["all"]
    assert (len(flat), flat.ids.tolist(), flat.labels.tolist()) == (5, [0, 1, 2, 3, 4], [0, 0, 0, 1, 1])
    image_folder(tmp_path / "split", {"train/a": 3, "train/b": 2, "test/b": 2})
    split = load(config(tmp_path / "split"), ["all"])["all"]
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert split.names[5] == "test/b/img0.png"


@pytest.mark.parametrize(
    ("layout", "fraction", "split", "available"),
    [
        ({"a": 2, "b": 2}, 0.5, "test", "train, val, all"),
        ({"a": 2, "b": 2}, 0.0, "val", "train, all"),
        ({"test/a": 2, "test/b": 2}, 0.5, "train", "test, all"),
        ({"test/a": 2, "test/b": 2}, 0.5, "val", "test, all"),
        ({"a": 2, "b": 2}, 0.5, "tset", "train, val, all"),
    ],
)
def test_a_split_that_is_not_there(
    tmp_path: Path, layout: dict[str, int], fraction: float, split: str, available: str
) -> None:
    with pytest.raises(DataError, match=f"no split '{split}'(.|\n)*one of {available}"):
        load(config(image_folder(tmp_path, layout), validation_fraction=fraction), [split])


def test_a_class_too_small_to_be_split(tmp_path: Path) -> None:
    image_folder(tmp_path, {"common": 5, "rare": 1})
    assert len(load(config(tmp_path), ["train"])["train"]) == 6
    with pytest.raises(DataError, match="'rare' is too small"):
        load(config(tmp_path), ["train", "val"])


def test_a_single_class(tmp_path: Path) -> None:
    image_folder(tmp_path, {"only": 3})
    with pytest.raises(DataError, match="single class"):
        load(config(tmp_path), ["train"])
    assert len(load(config(tmp_path), ["all"], classes=["only", "other"])["all"]) == 3


# ---- classes of a model ------------------------------------------------------------------------------------------


def test_labels_follow_the_classes_of_a_model(tmp_path: Path) -> None:
    image_folder(tmp_path, {"test/cat": 2, "test/dog": 1})
    result = load(config(tmp_path), ["test"], classes=("zebra", "dog", "cat"))["test"]
    assert result.classes == ("zebra", "dog", "cat")
    assert result.labels.tolist() == [2, 2, 1]


def test_a_class_that_the_model_lacks(tmp_path: Path) -> None:
    image_folder(tmp_path, {"test/cat": 2, "test/dgo": 1})
    with pytest.raises(DataError, match="the model does not have(.|\n)*'dgo'(.|\n)*'dog'"):
        load(config(tmp_path), ["test"], classes=("cat", "dog"))


def test_no_class_of_the_model_at_all(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"test/{i}": 1 for i in range(7)})
    with pytest.raises(DataError) as caught:
        load(config(tmp_path), ["test"], classes=[f"bird {i}" for i in range(9)])
    text = str(caught.value)
    assert "none of the model's classes" in text
    assert "Got 7 classes: 0, 1, 2, 3, 4, ...;" in text
    assert "some of the model's 9: bird 0, bird 1, bird 2, bird 3, bird 4, ..." in text


def test_a_class_without_examples_need_not_be_known(tmp_path: Path) -> None:
    images = [encode(noise(6, 6, seed), "PNG") for seed in range(2)]
    path = write_parquet(tmp_path / "x.parquet", images, [0, 2], names=["cat", "unused", "dog"])
    assert load(config(path), ["train"], classes=("dog", "cat"))["train"].labels.tolist() == [1, 0]


def test_the_hold_out_does_not_depend_on_the_classes_of_the_model() -> None:
    reverse = tuple("9876543210")
    plain, aligned = load(DIGITS, ["val"])["val"], load(DIGITS, ["val"], classes=reverse)["val"]
    np.testing.assert_array_equal(plain.ids, aligned.ids)
    np.testing.assert_array_equal(9 - plain.labels, aligned.labels)


# ---- pixels and errors -------------------------------------------------------------------------------------------


def test_the_preprocessing_of_a_model_is_followed(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 2, "b": 2}, side=9)
    model = Preprocessing(
        image_size=(8, 8), decode_size=(5, 7), resize_mode="squash", channels="L", mean=(0.5,), std=(0.5,)
    )
    result = load(config(tmp_path), ["train"], preprocessing=model)["train"]
    assert result.images.shape == (4, 1, 5, 7)
    np.testing.assert_array_equal(result.images[2], load_image(tmp_path / "b" / "img0.png", model))


def test_digits_are_grey_in_three_channels() -> None:
    colour = load(DIGITS, ["test"])["test"]
    assert colour.images.shape == (359, 3, 8, 8)
    assert (colour.images == colour.images[:, :1]).all()
    grey = load(DataConfig(spec="digits", image_size=8, channels="L"), ["test"])["test"]
    np.testing.assert_array_equal(grey.images, colour.images[:, :1])


def test_unreadable_images_are_named_and_left_out(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "img2.png").write_bytes(encode(noise(6, 6), "PNG")[:70])
    (tmp_path / "b" / "img0.png").unlink()
    (tmp_path / "b" / "img0.png").symlink_to(tmp_path / "nowhere")
    result = load(config(tmp_path), ["train"])["train"]
    assert [error.name for error in result.errors] == ["a/img2.png", "b/img0.png"]
    assert result.ids.tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    assert result.labels.tolist() == [0] * 4 + [1] * 4
    assert "a/img2.png" not in result.names
    assert len(result.images) == len(result.names) == 8


def test_not_one_readable_image(tmp_path: Path) -> None:
    image_folder(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1})
    (tmp_path / "test" / "a" / "img0.png").write_text("text")
    with pytest.raises(DataError, match=r"'test' could be read(.|\n)*test/a/img0\.png: not an image"):
        load(config(tmp_path), ["train", "test"])


def test_fingerprint_follows_names_labels_and_pixels(tmp_path: Path) -> None:
    def fingerprint() -> str:
        return load(config(tmp_path), ["train"])["train"].fingerprint

    image_folder(tmp_path, {"a": 2, "b": 2})
    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    (tmp_path / "a" / "img0.png").write_bytes(encode(noise(6, 6, 99), "PNG"))
    seen.append(fingerprint())
    (tmp_path / "a" / "img0.png").rename(tmp_path / "a" / "img00.png")
    seen.append(fingerprint())
    (tmp_path / "a").rename(tmp_path / "c")
    seen.append(fingerprint())
    assert len(set(seen)) == 4


def test_fingerprint_follows_labels_alone(tmp_path: Path) -> None:
    images = [encode(noise(6, 6, seed), "PNG") for seed in range(3)]
    seen: set[str] = set()
    for labels in ([0, 1, 1], [1, 0, 1]):
        path = write_parquet(tmp_path / "x.parquet", images, labels, names=["a", "b"])
        seen.add(load(config(path), ["train"])["train"].fingerprint)
    assert len(seen) == 2


def test_fingerprint_is_the_same_in_memory_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image_folder(tmp_path / "data", {"a": 3, "b": 3})
    small, large = (
        DataConfig(spec=str(tmp_path / "data"), image_size=300, ram_budget_mib=budget) for budget in (1, 100)
    )
    mapped, in_memory = load(small, ["train"])["train"], load(large, ["train"])["train"]
    assert isinstance(mapped.images, np.memmap)
    assert same(mapped, in_memory)


# ---- preprocessing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "native", "expected"),
    [
        ({"spec": "cifar10", "image_size": 224}, None, (32, 32)),
        ({"spec": "digits", "image_size": 16}, None, (8, 8)),
        ({"spec": "fashion-mnist", "image_size": 28}, None, (28, 28)),
        ({"spec": "cifar10", "image_size": 224, "decode_size": 64}, None, (64, 64)),
        ({"spec": "folder", "image_size": (96, 128)}, None, (96, 128)),
        ({"spec": "folder", "image_size": 96, "decode_size": (100, 120)}, None, (100, 120)),
        ({"spec": "folder", "image_size": 96}, (48, 64), (48, 64)),
    ],
)
def test_decode_size(changes: dict[str, object], native: tuple[int, int] | None, expected: tuple[int, int]) -> None:
    result = preprocessing_for(DataConfig(**changes), native)  # type: ignore[arg-type]
    assert result.decode_size == expected


def test_preprocessing_copies_the_settings() -> None:
    given = DataConfig(
        image_size=(8, 16), resize_mode="squash", resize_filter="box", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)
    )
    result = preprocessing_for(given)
    assert (result.image_size, result.resize_mode, result.resize_filter) == ((8, 16), "squash", "box")
    assert (result.mean, result.std) == (given.mean, given.std)


def test_grey_normalisation() -> None:
    assert preprocessing_for(DataConfig(channels="L")).mean == (0.5,)
    assert preprocessing_for(DataConfig(channels="L", mean=(0.3,), std=(0.2,))).std == (0.2,)
    with pytest.raises(ConfigError, match="mean"):
        preprocessing_for(DataConfig(channels="L", mean=(0.1, 0.2, 0.3)))


# ---- summary -----------------------------------------------------------------------------------------------------


def test_summary(tmp_path: Path) -> None:
    image_folder(tmp_path, {"train/a": 6, "train/b": 2, "test/a": 1, "test/b": 1})
    (tmp_path / "train" / "a" / "img0.png").write_bytes(encode(smooth(20, 30), "JPEG"))
    (tmp_path / "train" / "b" / "img1.png").write_text("text")
    (tmp_path / "train" / "a" / "notes.txt").write_text("text")
    result = summary(config(tmp_path))
    splits = result["splits"]
    assert isinstance(splits, dict)
    assert set(splits) == {"train", "test"}
    train = splits["train"]
    assert (train["num_examples"], train["per_class"], train["imbalance"]) == (8, {"a": 6, "b": 2}, 3.0)
    assert train["sizes"] == {"6x6": 6, "30x20": 1}
    assert train["formats"] == {"PNG RGB": 6, "JPEG RGB": 1}
    assert [error["path"] for error in train["errors"]] == ["train/b/img1.png"]
    assert (result["num_ignored_files"], result["classes"]) == (1, ["a", "b"])
    assert result["num_bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*.png"))


def test_summary_reads_headers_alone(tmp_path: Path) -> None:
    image_folder(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a" / "img0.png").write_bytes(png_bomb(9000, 9000))
    started = time.perf_counter()
    result = summary(config(tmp_path))
    assert time.perf_counter() - started < 2
    assert result["splits"]["train"]["sizes"] == {"6x6": 1, "9000x9000": 1}  # type: ignore[index]


def test_summary_of_digits_is_plain_data() -> None:
    result = summary(DIGITS)
    assert json.loads(json.dumps(result)) == result
    train = result["splits"]["train"]  # type: ignore[index]
    assert train["formats"] == {"array L": 1438}
    assert math.isclose(train["imbalance"], 146 / 139)


def test_summary_does_not_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="vitrail data download cifar10"):
        summary(DataConfig(spec="cifar10", root=str(tmp_path)))


# ---- real data ---------------------------------------------------------------------------------------------------


def test_cifar10_test_set(cifar_root: Path) -> None:
    cifar = DataConfig(spec="cifar10", root=str(cifar_root), image_size=32)
    result = load(cifar, ["test"])["test"]
    assert result.images.shape == (10000, 3, 32, 32)
    assert np.bincount(result.labels).tolist() == [1000] * 10
    assert (result.classes[0], result.classes[9], result.errors) == ("airplane", "truck", ())
    # Known means of the test set in [0, 1], to three digits.
    np.testing.assert_allclose(result.images.mean(axis=(0, 2, 3)) / 255, [0.494, 0.485, 0.450], atol=1e-3)


def test_cifar10_split_is_balanced(cifar_root: Path) -> None:
    """45,000 and 5,000 examples, 500 of each class held out; told from the index, without decoding."""
    cifar = DataConfig(spec="cifar10", root=str(cifar_root))
    source = open_source(cifar)
    held = hold_out(source.splits["train"].labels, source.classes, cifar.validation_fraction, cifar.seed)
    assert np.bincount(source.splits["train"].labels[held]).tolist() == [500] * 10
