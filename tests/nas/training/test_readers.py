"""Every kind of source is read as it is, and whatever is wrong with it is said in one line."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nas.training.data import load_dataset
from nas.training.readers import decode, locate
from search_spaces.errors import InputError


def picture(path: Path, value: int = 100, mode: str = "RGB", size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


def folder(root: Path, parts: tuple[str, ...] = ("train", "test"), mode: str = "RGB") -> Path:
    for part in parts:
        for number, name in enumerate(("cat", "dog")):
            for index in range(5):
                picture(root / part / name / f"{index}.png", 10 * index + number, mode)
    return root


def arrays(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "x_train": np.arange(10 * 6, dtype=np.uint8).reshape(10, 2, 3),
        "y_train": np.arange(10) % 2,
        "x_test": np.zeros((4, 2, 3), np.uint8),
        "y_test": np.arange(4) % 2,
    }
    made.update(changes)
    return {name: value for name, value in made.items() if value is not None}


def npz(root: Path, **changes: Any) -> Path:
    np.savez(root / "data.npz", **arrays(**changes))
    return root / "data.npz"


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def parquet(root: Path, image: str = "image", label: str = "label", labels: Any = None, **metadata: Any) -> Path:
    for part in ("train", "test"):
        rows = [{"bytes": png(value), "path": None} for value in range(10)]
        table = pa.table({image: rows, label: [0, 1] * 5 if labels is None else labels})
        pq.write_table(table.replace_schema_metadata(metadata), root / f"{part}-00000-of-00001.parquet")
    return root


def test_split_folder_keeps_its_parts_and_takes_val_from_train(tmp_path: Path) -> None:
    data = load_dataset(str(folder(tmp_path)), None, 0)
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (3, 4, 4)
    assert data.describe() == [("cat", 4, 1, 5), ("dog", 4, 1, 5)]
    assert data.test.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 1, 11, 21, 31, 41]


def test_own_val_is_used_and_hidden_files_are_not(tmp_path: Path) -> None:
    folder(tmp_path, ("train", "val", "test"))
    (tmp_path / "train" / "cat" / "._0.png").write_bytes(b"left by a Mac")
    (tmp_path / "train" / ".cache").mkdir()
    assert load_dataset(str(tmp_path), None, 0).describe() == [("cat", 5, 5, 5), ("dog", 5, 5, 5)]


def test_channels_and_size(tmp_path: Path) -> None:
    gray = folder(tmp_path / "gray", mode="L")
    assert load_dataset(str(gray), 8, 0).input_shape == (1, 8, 8)
    colour = load_dataset(str(gray), (3, 6, 5), 0)
    assert colour.input_shape == (3, 6, 5)
    assert np.ptp(colour.train.images, axis=3).max() == 0
    picture(gray / "train" / "cat" / "red.png", 255, size=(6, 4))
    assert load_dataset(str(gray), None, 0).input_shape == (3, 224, 224)
    forced = decode(locate(str(gray)).read().parts, (1, 4, 4))
    assert forced["train"][-6].max() == 76  # ITU-R 601 luma of pure red: 0.299 * 255


def test_photo_is_turned_upright(tmp_path: Path) -> None:
    folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: turn by 90 degrees clockwise to see it
    for path in tmp_path.rglob("*.png"):
        image = Image.new("RGB", (6, 4))
        image.paste((255, 255, 255), (0, 0, 3, 4))
        image.save(path, exif=exif)
    data = load_dataset(str(tmp_path), None, 0)
    assert data.input_shape == (3, 6, 4)
    assert data.train.images[0, :3].min() == 255 and data.train.images[0, 3:].max() == 0


def test_16_bit_gray_is_scaled(tmp_path: Path) -> None:
    folder(tmp_path, mode="L")
    Image.fromarray(np.full((4, 4), 0x8040, np.uint16)).save(tmp_path / "test" / "cat" / "0.png")
    assert load_dataset(str(tmp_path), None, 0).test.images[0].max() == 0x80


def test_shrinking_averages(tmp_path: Path) -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    path = npz(tmp_path, x_train=np.stack([board] * 10), x_test=np.stack([board] * 4))
    images = load_dataset(str(path), 8, 0).test.images
    assert np.abs(images.astype(int) - 127).max() <= 8  # without antialiasing: 0 or 255


def test_npz_is_read_as_it_is(tmp_path: Path) -> None:
    data = load_dataset(str(npz(tmp_path, classes=np.array(["even", "odd"]))), None, 0)
    assert data.classes == ("even", "odd") and data.input_shape == (1, 2, 3)
    rows = np.sort(np.concatenate([data.train.images, data.val.images])[:, 0, 0, 0])
    assert rows.tolist() == list(range(0, 60, 6))


def test_labels_without_names_are_numbered(tmp_path: Path) -> None:
    data = load_dataset(str(npz(tmp_path, y_train=np.arange(10) % 2 * 4 + 3, y_test=np.array([7, 3, 3, 7]))), None, 0)
    assert data.classes == ("3", "7")
    assert data.test.labels.tolist() == [1, 0, 0, 1]


def test_parquet_with_and_without_names(tmp_path: Path) -> None:
    features = '{"info":{"features":{"img":{"_type":"Image"},"label":{"names":["a","b"],"_type":"ClassLabel"}}}}'
    data = load_dataset(str(parquet(tmp_path, "img", huggingface=features)), None, 0)
    assert data.classes == ("a", "b")
    assert data.test.images[:, 0, 0, 0].tolist() == list(range(10))
    assert data.test.labels.tolist() == [0, 1] * 5
    assert load_dataset(str(parquet(tmp_path)), None, 0).classes == ("0", "1")
    assert load_dataset(str(parquet(tmp_path, labels=["x", "y"] * 5)), None, 0).classes == ("x", "y")


def without(*names: str) -> Callable[[Path], Path]:
    """Make a split folder, then take the images of these sub-folders away."""

    def make(root: Path) -> Path:
        folder(root)
        for name in names:
            for image in (root / name).rglob("*.png"):
                image.unlink()
        return root

    return make


def extra(path: str, data: bytes | None = None) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        folder(root)
        picture(root / path)
        if data is not None:
            (root / path).write_bytes(data)
        return root

    return make


def truncated(root: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder(root) / "test" / "cat" / "cut.jpg")
    data = (root / "test" / "cat" / "cut.jpg").read_bytes()
    (root / "test" / "cat" / "cut.jpg").write_bytes(data[: len(data) // 2])
    return root


def deep(root: Path) -> Path:
    Image.new("F", (4, 4)).save(folder(root) / "test" / "cat" / "deep.tif")
    return root


def one_class(root: Path) -> Path:
    for index in range(4):
        picture(root / "only" / f"{index}.png")
    return root


def small_class(root: Path) -> Path:
    folder(root, ("train",))
    for index in range(2):
        picture(root / "train" / "emu" / f"{index}.png")
    return root / "train"


def single_image(root: Path) -> Path:
    picture(folder(root) / "train" / "emu" / "0.png")
    return root


def file(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (root / name).write_bytes(data)
        return root / name

    return make


def one_part(root: Path) -> Path:
    (parquet(root) / "test-00000-of-00001.parquet").unlink()
    return root


def broken_parquet(root: Path) -> Path:
    (parquet(root) / "train-00000-of-00001.parquet").write_bytes(b"no parquet" * 100)
    return root


def blank_image(root: Path) -> Path:
    table = pa.table({"image": [{"bytes": None, "path": "0.png"}] * 2, "label": [0, 1]})
    pq.write_table(table, parquet(root) / "train-00000-of-00001.parquet")
    return root


def damaged_row(root: Path) -> Path:
    rows = [{"bytes": png(0) if number else b"text", "path": None} for number in range(4)]
    pq.write_table(pa.table({"image": rows, "label": [0, 1, 0, 1]}), parquet(root) / "test-00000-of-00001.parquet")
    return root


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "nowhere' does not exist; give digits, a folder"),
        (lambda root: Path("digit"), "'digit' does not exist; did you mean 'digits'"),
        (file("notes.txt", b"text"), "notes.txt' is of no known kind; give digits"),
        (lambda root: root, "has no class sub-folders; give digits"),
        (one_class, "only the class 'only'; a classifier needs two"),
        (without("train/cat"), "class 'cat' of .* has no images in train"),
        (without("train"), "train of .* has no images"),
        (without("test"), "test of .* has no images"),
        (lambda root: folder(root, ("train",)), "has train but no test folder; add"),
        (lambda root: folder(root, ("val", "test")), "has val and test but no train folder"),
        (extra("test/emu/0.png"), "test of .* has the label 'emu', not one of 2 classes of train"),
        (small_class, "class 'emu' in train of .* has 2 image.*; give 3 or more"),
        (single_image, "class 'emu' in train of .* has 1 image.*; give 2 or more"),
        (extra("train/dog/x.jpg", b"text"), r"cannot decode image .*/dog/x.jpg \(not an image\); replace"),
        (truncated, r"cannot decode image .*/cat/cut.jpg \(.*truncated"),
        (deep, r"cannot decode image .*deep.tif \(32 bits per pixel"),
        (lambda root: npz(root, y_test=None), "data.npz has no array 'y_test'"),
        (lambda root: npz(root, x_train=np.zeros((10, 2, 3))), "x_train in .* must be uint8 .* got float64"),
        (
            lambda root: npz(root, x_test=np.zeros((4, 2, 2, 2), np.uint8)),
            r"x_test in .* got uint8 \(4, 2, 2, 2\)",
        ),
        (
            lambda root: npz(root, y_test=np.zeros(3, int)),
            r"y_test in .* must be 4 whole numbers, got int64 \(3,\)",
        ),
        (lambda root: npz(root, y_test=np.zeros(4)), "y_test in .* got float64"),
        (lambda root: npz(root, y_test=np.array([0, 1, 2, 9])), "test of .* has the label '2', not one of 2"),
        (lambda root: npz(root, y_train=np.arange(10, dtype=object)), "data.npz: it holds pickled objects"),
        (lambda root: npz(root, classes=np.arange(2)), "classes in .* must be a list of text, got int64"),
        (lambda root: npz(root, classes=np.array(["a", "b", "c"])), "class 'c' of .* has no images in train"),
        (file("data.npz", b"text"), "data.npz: it is damaged or no .npz file"),
        (one_part, r"has no test-\*.parquet file"),
        (broken_parquet, "cannot read .*train-00000-of-00001.parquet: "),
        (lambda root: parquet(root, image="photo"), "has no column image or img, only photo, label"),
        (lambda root: parquet(root, label="kind"), "has no column label, only image, kind"),
        (lambda root: parquet(root, labels=[0.5] * 10), "each row needs image bytes and a label"),
        (blank_image, "each row needs image bytes and a label"),
        (damaged_row, r"cannot decode image 0 of test of .* \(not an image\)"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(str(make(tmp_path / "data")), None, 0, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("size", [0, (2, 8, 8), (1, 8, 0)])
def test_size_must_make_sense(size: int | tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="1 or 3 channels and at least 1 px"):
        load_dataset("digits", size, 0)
