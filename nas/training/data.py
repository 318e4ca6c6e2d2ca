"""Labelled images for training: reproducible splits, statistics, a cache of decoded pixels, and batches."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from latency.files import read_sealed, replacing, sha256, write_sealed
from nas.training.readers import Located, Source, decode, locate
from search_spaces.errors import InputError

_HELD_OUT = 0.2  # share of the images that each part held out from train gets
_EVERY = 5  # FBNet (CVPR 2019, section 4.1) trains weights on four fifths, architectures on the rest
_CACHE_VERSION = 1
_PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Images as uint8 (N, H, W, C), C = 1 or 3, perhaps memory-mapped read-only, and int64 labels (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits of one source.

    ``mean`` and ``std`` are per channel, of train alone, for pixels scaled to [0, 1]. ``digest`` is a SHA-256
    over class names, images and labels of each split: equal digests mean the same data split the same way.
    """

    source: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        height, width, channels = self.train.images.shape[1:]
        return channels, height, width

    def describe(self) -> list[tuple[str, int, int, int]]:
        """Return (class, images in train, in val, in test) for each class."""
        splits = (self.train, self.val, self.test)
        counts = [np.bincount(split.labels, minlength=len(self.classes)).tolist() for split in splits]
        return list(zip(self.classes, *counts, strict=True))


def load_dataset(source: str, size: tuple[int, int, int] | int | None, seed: int, cache: Path | None = None) -> Dataset:
    """Read, decode and split a source of labelled images.

    A source without a split gets 60 % train, 20 % val and 20 % test; one without val gives 20 % of its
    train to val; both per class, the same for the same ``seed`` everywhere. A given test is never touched.

    Args:
        source: ``digits`` (scikit-learn's), a folder with train/, test/ and perhaps val/ of class
            sub-folders, a folder of class sub-folders, a folder of Hugging Face parquet files, or an .npz
            file with x_train, y_train, x_test, y_test and perhaps classes.
        size: side in pixels, or (C, H, W), or None for the size of the images (224 px if they differ).
            Without C, images stay gray (C = 1) if all of them are.
        seed: decides the split, >= 0.
        cache: folder to keep decoded images in; a second call then maps them from there into memory.

    Raises:
        InputError: the source is missing, unknown, incomplete or damaged, or too small to split.
    """
    located = locate(source)
    if cache is None:
        return _assemble(source, located.read(), size, seed)
    folder = cache / _cache_key(source, located, size, seed)
    dataset = _read_cache(folder, source)
    if dataset is None:
        dataset = _assemble(source, located.read(), size, seed)
        _write_cache(folder, dataset)
    return dataset


def _assemble(name: str, source: Source, size: tuple[int, int, int] | int | None, seed: int) -> Dataset:
    train = source.parts["train"]
    held_out = [part for part in ("val", "test") if part not in source.parts]
    dealt = _deal(train.labels, held_out, seed, train.where, source.classes)
    images = decode(source.parts, size)
    splits = {part: Split(images[part], source.parts[part].labels) for part in source.parts if part not in dealt}
    splits |= {part: Split(images["train"][rows], train.labels[rows]) for part, rows in dealt.items()}
    _require_every_class(name, source.classes, splits)
    mean, std = _statistics(splits["train"].images)
    digest = _digest(source.classes, splits)
    return Dataset(name, source.classes, **splits, mean=mean, std=std, digest=digest)


def parted(data: Dataset) -> tuple[Dataset, Split]:
    """Return the data without every fifth training image, and these: architectures learn from them, weights do not."""
    held = np.arange(len(data.train)) % _EVERY == 0  # images are often sorted by class
    train = Split(data.train.images[~held], data.train.labels[~held])
    digest = sha256(f"{data.digest} less every {_EVERY}th".encode())
    return replace(data, train=train, digest=digest), Split(data.train.images[held], data.train.labels[held])


def _require_every_class(name: str, classes: tuple[str, ...], splits: dict[str, Split]) -> None:
    """Raise ``InputError`` where a part lacks a class: its accuracy would say nothing about it."""
    for part, split in splits.items():
        absent = np.flatnonzero(np.bincount(split.labels, minlength=len(classes)) == 0)
        if len(absent):
            raise InputError(f"class {classes[absent[0]]!r} of {name} has no images in {part}; add some")


def _deal(
    labels: NDArray[np.int64], held_out: list[str], seed: int, where: str, classes: tuple[str, ...]
) -> dict[str, NDArray[np.intp]]:
    """Return the rows, ascending, of each held-out part (a share of each class) and of train (the rest).

    Raises:
        InputError: a class has too few images for each part to get one.
    """
    # NumPy promises that this raw stream never changes, which it does not of Generator.permutation.
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable")
    rows: dict[str, list[NDArray[np.intp]]] = {part: [] for part in (*held_out, "train")}
    for label, name in enumerate(classes):
        members = order[labels[order] == label]
        if len(members) <= len(held_out):
            raise InputError(
                f"class {name!r} in {where} has {len(members)} image(s), too few to split it into "
                f"{', '.join(rows)}; give {len(rows)} or more"
            )
        share = max(1, round(_HELD_OUT * len(members)))
        for number, part in enumerate(held_out):
            rows[part].append(members[number * share : (number + 1) * share])
        rows["train"].append(members[len(held_out) * share :])
    return {part: np.sort(np.concatenate(found)) for part, found in rows.items()}


def _statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel in [0, 1] units, exact by counting the 256 values.

    A deviation below one gray level counts as one, so that constant channels can be normalised.
    """
    counts = np.zeros((images.shape[3], 256))
    for start in range(0, len(images), 256):  # bincount works on int64 copies: keep them small
        for channel, total in enumerate(counts):
            total += np.bincount(images[start : start + 256, ..., channel].ravel(), minlength=256)
    values, weights = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(1)
    return tuple(mean.tolist()), tuple(np.maximum(np.sqrt(variance), 1 / 255).tolist())


def _digest(classes: tuple[str, ...], splits: dict[str, Split]) -> str:
    state = hashlib.sha256(json.dumps(classes).encode())
    for part in _PARTS:
        images, labels = splits[part].images, splits[part].labels
        state.update(f"{part} {images.shape}".encode())
        state.update(labels.astype("<i8").tobytes())
        state.update(np.ascontiguousarray(images).reshape(-1).data)
    return state.hexdigest()


def _cache_key(source: str, located: Located, size: tuple[int, int, int] | int | None, seed: int) -> str:
    stats = [(str(path.absolute()), path.stat()) for path in located.files]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    place = str(Path(source).absolute()) if files else source
    return sha256(json.dumps([place, files, size, seed]).encode())


def _write_cache(folder: Path, dataset: Dataset) -> None:
    for part in _PARTS:
        split: Split = getattr(dataset, part)
        for name, array in (("images", split.images), ("labels", split.labels)):
            with replacing(folder / f"{part}_{name}.npy") as file:
                np.save(file, array)
    body = {"classes": dataset.classes, "mean": dataset.mean, "std": dataset.std, "digest": dataset.digest}
    write_sealed(folder / "dataset.json", _CACHE_VERSION, {"key": folder.name, **body})


def _read_cache(folder: Path, source: str) -> Dataset | None:
    """Return the data set kept in ``folder``, or None if it is not there, not whole or not intact."""
    try:
        body = read_sealed(folder / "dataset.json", _CACHE_VERSION, "data cache")
        splits = {part: _map_split(folder, part) for part in _PARTS}
    except (InputError, OSError, EOFError, ValueError):
        return None
    classes, mean, std = tuple(body["classes"]), tuple(body["mean"]), tuple(body["std"])
    if body["key"] != folder.name or body["digest"] != _digest(classes, splits):
        return None
    return Dataset(source, classes, **splits, mean=mean, std=std, digest=body["digest"])


def _map_split(folder: Path, part: str) -> Split:
    images = np.load(folder / f"{part}_images.npy", mmap_mode="r", allow_pickle=False)
    labels = np.load(folder / f"{part}_labels.npy", allow_pickle=False)
    if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise ValueError(f"{part} in {folder} is not what was written")
    return Split(images, labels)


def to_tensor(images: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Normalise uint8 images (N, H, W, C) to float32 (N, C, H, W) in channels_last memory format.

    ``mean`` and ``std`` are per channel in [0, 1] units.
    """
    # In NumPy and over whole rows: PyTorch would start its threads for so little work, which costs more.
    count, height, width, channels = images.shape
    pixels = images.reshape(count, height, width * channels).astype(np.float32)
    pixels -= np.tile(255 * np.array(mean, np.float32), width)
    pixels /= np.tile(255 * np.array(std, np.float32), width)
    return torch.from_numpy(pixels.reshape(images.shape)).permute(0, 3, 1, 2)


def batches(
    split: Split,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int,
    rng: np.random.Generator | None = None,
    augment: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images as ``to_tensor`` gives them and labels (int64), ``batch_size`` at a time.

    With ``rng`` the order is random, and a last batch of a single image is left out, for batch normalisation
    cannot train on it. Without ``rng`` every image comes once, in order.

    ``augment`` (needs ``rng``) shifts each image by up to an eighth of its size, mirroring at the borders,
    and flips half of the colour images left to right. Gray images are not flipped: they are mostly symbols,
    and flipping changes what a symbol means.
    """
    if augment and rng is None:
        raise ValueError("augment needs an rng")
    order = np.arange(len(split)) if rng is None else rng.permutation(len(split))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        if rng is not None and len(rows) == 1 < batch_size:
            return
        images = split.images[rows]
        if augment and rng is not None:
            images = _augmented(images, rng)
        yield to_tensor(images, mean, std), torch.from_numpy(split.labels[rows])


def _augmented(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    count, height, width, channels = images.shape
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    padded = np.pad(images, ((0, 0), (pad_y, pad_y), (pad_x, pad_x), (0, 0)), "reflect")
    crops = sliding_window_view(padded, (height, width, channels), (1, 2, 3))
    top, left = rng.integers(0, 2 * pad_y + 1, count), rng.integers(0, 2 * pad_x + 1, count)
    images = crops[np.arange(count), top, left, 0]
    if channels == 3:
        flip = rng.random(count) < 0.5
        images[flip] = images[flip, :, ::-1]
    return images
