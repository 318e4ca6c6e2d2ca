"""Splits are disjoint, stratified and reproducible; the cache never lies; batches are what training needs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latency.files import read_sealed, write_sealed
from nas.training import data as module
from nas.training.data import Dataset, Split, batches, load_dataset, to_tensor
from search_spaces.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[3]
SHARED = REPOSITORY.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", None, 0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """10 cats and 15 dogs, each image of one gray level of its own."""
    for name, values in (("cat", range(10)), ("dog", range(10, 25))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for value in values:
            Image.new("L", (4, 4), value).save(tmp_path / "photos" / name / f"{value}.png")
    return tmp_path / "photos"


def same(one: Dataset, other: Dataset) -> bool:
    pairs = [(getattr(one, part), getattr(other, part)) for part in ("train", "val", "test")]
    equal = all(np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels) for a, b in pairs)
    about = [(d.source, d.classes, d.mean, d.std, d.digest) for d in (one, other)]
    return equal and about[0] == about[1]


def test_digits(digits: Dataset) -> None:
    assert digits.classes == tuple("0123456789")
    assert digits.input_shape == (1, 8, 8)
    assert digits.train.images.dtype == np.uint8 and digits.train.labels.dtype == np.int64
    assert len(digits.train) + len(digits.val) + len(digits.test) == 1797
    assert digits.train.images.max() == 255


def test_folder_is_split_60_20_20_per_class_without_overlap(photos: Path) -> None:
    data = load_dataset(str(photos), None, 0)
    assert data.describe() == [("cat", 6, 2, 2), ("dog", 9, 3, 3)]
    values = [part.images[:, 0, 0, 0].tolist() for part in (data.train, data.val, data.test)]
    assert sorted(value for part in values for value in part) == list(range(25))
    assert values[0] == sorted(values[0])


def test_labels_stay_with_their_images(photos: Path) -> None:
    data = load_dataset(str(photos), None, 3)
    for part in (data.train, data.val, data.test):
        assert (part.labels == (part.images[:, 0, 0, 0] >= 10)).all()


def test_seed_decides_the_split_and_nothing_else_does(photos: Path) -> None:
    first, again, other = (load_dataset(str(photos), None, seed) for seed in (0, 0, 1))
    assert same(first, again)
    assert other.digest != first.digest
    assert load_dataset(str(photos), 8, 0).train.images[:, 0, 0].tolist() == first.train.images[:, 0, 0].tolist()


def test_split_is_the_same_in_another_process(digits: Dataset) -> None:
    code = "from nas.training.data import load_dataset; print(load_dataset('digits', None, 0).digest)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert output.strip() == digits.digest


def test_class_without_test_images_is_refused(tmp_path: Path) -> None:
    images, labels = np.zeros((12, 4, 4), np.uint8), np.array([0, 1, 2] * 4)
    np.savez(tmp_path / "x.npz", x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8] % 2)
    with pytest.raises(InputError, match=r"class '2' of .* has no images in test"):
        load_dataset(str(tmp_path / "x.npz"), None, 0)


def test_statistics_are_of_train_alone(digits: Dataset) -> None:
    scaled = digits.train.images / 255
    assert digits.mean == pytest.approx([scaled.mean()], abs=1e-12)
    assert digits.std == pytest.approx([scaled.std()], abs=1e-12)


def test_constant_channel_can_be_normalised(tmp_path: Path) -> None:
    red = np.zeros((10, 4, 4, 3), np.uint8)
    red[..., 0] = 255
    red[::2, ..., 1] = 51
    labels = np.arange(10) // 5
    np.savez(tmp_path / "red.npz", x_train=red, y_train=labels, x_test=red, y_test=labels)
    data = load_dataset(str(tmp_path / "red.npz"), None, 0)
    assert data.mean[0] == 1 and data.mean[2] == 0
    assert data.std[0] == data.std[2] == 1 / 255
    assert torch.isfinite(to_tensor(data.test.images, data.mean, data.std)).all()


def test_cache_is_used_and_equal(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dataset(str(photos), None, 0, tmp_path / "cache")
    monkeypatch.setattr(module, "decode", lambda *_: pytest.fail("decoded again"))
    again = load_dataset(str(photos), None, 0, tmp_path / "cache")
    assert isinstance(again.train.images, np.memmap)
    assert same(first, again)


@pytest.mark.parametrize("change", [dict(size=8), dict(seed=1)])
def test_cache_keeps_settings_apart(change: dict[str, int], photos: Path, tmp_path: Path) -> None:
    settings: dict[str, int | None] = {"size": None, "seed": 0}
    load_dataset(str(photos), None, 0, tmp_path / "cache")
    settings.update(change)
    fresh = load_dataset(str(photos), settings["size"], settings["seed"] or 0)
    assert same(load_dataset(str(photos), settings["size"], settings["seed"] or 0, tmp_path / "cache"), fresh)


def test_changed_source_is_read_anew(photos: Path, tmp_path: Path) -> None:
    load_dataset(str(photos), None, 0, tmp_path / "cache")
    Image.new("L", (4, 4), 200).save(photos / "cat" / "0.png")
    Image.new("L", (4, 4), 201).save(photos / "cat" / "new.png")
    data = load_dataset(str(photos), None, 0, tmp_path / "cache")
    assert same(data, load_dataset(str(photos), None, 0))
    assert data.describe()[0] == ("cat", 7, 2, 2)


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "train_images.npy").read_bytes())
    data[-1] ^= 1
    (folder / "train_images.npy").write_bytes(data)


def other_labels(folder: Path) -> None:
    np.save(folder / "val_labels.npy", np.load(folder / "val_labels.npy")[::-1])


def other_type(folder: Path) -> None:
    np.save(folder / "val_labels.npy", np.load(folder / "val_labels.npy").astype(np.int32))


def cut_short(folder: Path) -> None:
    (folder / "test_images.npy").write_bytes((folder / "test_images.npy").read_bytes()[:-20])


def lose_array(folder: Path) -> None:
    (folder / "test_labels.npy").unlink()


def lose_json(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def edit_json(folder: Path) -> None:
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text.replace('"cat"', '"cow"'))


def move_from_elsewhere(folder: Path) -> None:
    body = read_sealed(folder / "dataset.json", 1, "cache")
    write_sealed(folder / "dataset.json", 1, {**body, "key": "another"})


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, other_labels, other_type, cut_short, lose_array, lose_json, edit_json, move_from_elsewhere],
)
def test_damaged_cache_is_remade(damage: Callable[[Path], None], photos: Path, tmp_path: Path) -> None:
    first = load_dataset(str(photos), None, 0, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    damage(folder)
    assert module._read_cache(folder, str(photos)) is None
    assert same(load_dataset(str(photos), None, 0, tmp_path / "cache"), first)
    assert module._read_cache(folder, str(photos)) is not None


def test_to_tensor_normalises_in_channels_last() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)
    tensor = to_tensor(images, mean, std)
    assert tensor.shape == (3, 3, 5, 4) and tensor.dtype == torch.float32
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    expected = (images / 255 - mean) / std
    np.testing.assert_allclose(tensor.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


def numbered(count: int, shape: tuple[int, int, int] = (1, 1, 1)) -> Split:
    """Image k is filled with k and has label k."""
    labels = np.arange(count)
    return Split(np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (count, *shape)), labels)


def test_batches_in_order_are_complete() -> None:
    found = list(batches(numbered(9), (0.0,), (1 / 255,), 4))
    assert [labels.tolist() for _, labels in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert found[1][0].flatten().tolist() == pytest.approx([4, 5, 6, 7])
    assert found[0][1].dtype == torch.int64


@pytest.mark.parametrize(("count", "sizes"), [(8, [4, 4]), (9, [4, 4]), (10, [4, 4, 2])])
def test_shuffled_batches_leave_out_a_single_last_image(count: int, sizes: list[int]) -> None:
    found = list(batches(numbered(count), (0.0,), (1 / 255,), 4, np.random.default_rng(0)))
    assert [len(labels) for _, labels in found] == sizes
    labels = torch.cat([labels for _, labels in found])
    assert len(set(labels.tolist())) == sum(sizes)
    assert torch.cat([images for images, _ in found]).flatten().tolist() == pytest.approx(labels.tolist())


def test_batches_of_one_are_kept() -> None:
    assert len(list(batches(numbered(3), (0.0,), (1.0,), 1, np.random.default_rng(0)))) == 3


def test_batches_derive_from_the_rng_alone(digits: Dataset) -> None:
    def run(seed: int) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        return next(batches(digits.train, digits.mean, digits.std, 32, rng, augment=True))[0]

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_augment_needs_an_rng() -> None:
    with pytest.raises(ValueError, match="augment needs an rng"):
        next(batches(numbered(2), (0.0,), (1.0,), 2, augment=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_are_shifts_and_only_colour_is_flipped(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, channels), np.uint8)
    split = Split(np.repeat(image[None], 300, 0), np.zeros(300, np.int64))
    found, _ = next(batches(split, (0.0,) * channels, (1 / 255,) * channels, 300, np.random.default_rng(0), True))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), "reflect")
    shifts = {padded[y : y + 16, x : x + 16].tobytes() for y in range(5) for x in range(5)}
    flips = {padded[y : y + 16, x : x + 16][:, ::-1].tobytes() for y in range(5) for x in range(5)}
    seen = {crop.tobytes() for crop in found.permute(0, 2, 3, 1).numpy().round().astype(np.uint8)}
    assert seen == (shifts if channels == 1 else shifts | flips)


def test_augmenting_leaves_the_data_alone(photos: Path, tmp_path: Path) -> None:
    load_dataset(str(photos), (3, 8, 8), 0, tmp_path / "cache")
    data = load_dataset(str(photos), (3, 8, 8), 0, tmp_path / "cache")
    before = data.train.images.copy()
    list(batches(data.train, data.mean, data.std, 4, np.random.default_rng(0), augment=True))
    assert np.array_equal(before, data.train.images)


@needs_data
def test_clothing_photos(tmp_path: Path) -> None:
    data = load_dataset(str(SHARED / "clothing"), 32, 0, tmp_path)
    assert data.input_shape == (3, 32, 32)
    assert (len(data.train), len(data.val), len(data.test)) == (3068, 341, 372)
    assert data.describe()[0] == ("dress", 241, 32, len(list((SHARED / "clothing/test/dress").iterdir())))
    assert same(data, load_dataset(str(SHARED / "clothing"), 32, 0, tmp_path))


@needs_data
def test_fashion_mnist() -> None:
    data = load_dataset(str(SHARED / "fashion_mnist.npz"), None, 0)
    assert data.input_shape == (1, 28, 28)
    assert data.describe()[0] == ("T-shirt/top", 4800, 1200, 1000)
    assert data.mean == pytest.approx([0.286], abs=2e-3)  # published for all 60,000: 0.2860 and 0.3530
    assert data.std == pytest.approx([0.353], abs=2e-3)


@needs_data
def test_parquet_leaves_nothing_in_the_home(tmp_path: Path) -> None:
    """Reads the test file of CIFAR-10 as train too, to be quick, in a process with a home of its own."""
    for part in ("train", "test"):
        (tmp_path / f"{part}-0.parquet").symlink_to(SHARED / "cifar10_jpeg" / "test-00000-of-00001.parquet")
    (tmp_path / "home").mkdir()
    code = "from nas.training.readers import locate; import sys; print(*locate(sys.argv[1]).read().classes)"
    environment = {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY)}
    output = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout.split()[:2] == ["airplane", "automobile"]
    assert not list((tmp_path / "home").rglob("*"))
