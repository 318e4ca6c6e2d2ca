"""Sources of labelled images: what a source holds (``locate``), and its pixels as uint8 (``decode``)."""

import difflib
import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from search_spaces.errors import InputError

_ACCEPTED = (
    "digits, a folder with train/ and test/ of class sub-folders, a folder of class sub-folders, "
    "a folder of train-*.parquet and test-*.parquet, or an .npz file"
)
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
_NPZ_NAMES = ("x_train", "y_train", "x_test", "y_test", "classes")
_PARQUET_PARTS = {"train": "train", "val": "validation", "test": "test"}
_GRAY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
_DEFAULT_PX = 224  # for photos of unequal sizes: the usual ImageNet input
_CHUNK = 64  # images per thread task, so that the cost of a task is small against decoding

Item = Path | bytes | NDArray[np.uint8]
Items = Sequence[Path | bytes] | NDArray[np.uint8]
_Raw = Mapping[str, tuple[Items, NDArray[Any]]]  # part: images and labels as the source has them


@dataclass(frozen=True)
class Part:
    """N images, encoded or decoded as (N, H, W, C), with N labels; ``where`` names the part in errors."""

    where: str
    items: Items
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """Class names and parts: ``train``, ``test`` unless the source has no split, ``val`` where it has one."""

    classes: tuple[str, ...]
    parts: dict[str, Part]


@dataclass(frozen=True)
class Located:
    """The files that a source consists of, and the function that reads them."""

    files: tuple[Path, ...]
    read: Callable[[], Source]


def locate(source: str) -> Located:
    """Find out of which kind ``source`` is and list its files, without decoding an image.

    Raises:
        InputError: there is no such source, it is of no known kind, or a part or the images of a class lack.
    """
    path = Path(source)
    if source == "digits":
        return Located((), _read_digits)
    if path.suffix == ".npz" and path.is_file():
        return Located((path,), lambda: _read_npz(path))
    if path.is_dir():
        return _locate_parquet(path) if any(path.glob("*.parquet")) else _locate_images(path)
    problem = "is of no known kind" if path.exists() else "does not exist"
    near = difflib.get_close_matches(source.lower(), ["digits"])
    hint = "did you mean 'digits'?" if near else f"give {_ACCEPTED}"
    raise InputError(f"data source {source!r} {problem}; {hint}")


def _class_folders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("[!.]*") if path.is_dir()), key=lambda path: path.name)


def _locate_images(folder: Path) -> Located:
    parts = {part: folder / part for part in ("train", "val", "test") if (folder / part).is_dir()}
    for part in ("train", "test"):
        if parts and part not in parts:
            raise InputError(f"{folder} has {' and '.join(parts)} but no {part} folder; add {folder / part}")
    parts = parts or {"train": folder}
    if not (names := [path.name for path in _class_folders(parts["train"])]):
        raise InputError(f"{parts['train']} has no class sub-folders; give {_ACCEPTED}")
    raw = {part: _list_images(root) for part, root in parts.items()}
    source = _label(str(folder), raw, names)
    return Located(tuple(path for paths, _ in raw.values() for path in paths), lambda: source)


def _list_images(root: Path) -> tuple[list[Path], NDArray[Any]]:
    """Return the image files below the class sub-folders of ``root``, in the same order on any machine."""
    found: list[tuple[Path, str]] = []
    for folder in _class_folders(root):
        visible = (path for path in folder.rglob("[!.]*") if path.suffix.lower() in _SUFFIXES)
        found += [(path, folder.name) for path in sorted(visible, key=Path.as_posix)]
    return [path for path, _ in found], np.array([name for _, name in found], dtype=np.str_)


def _label(where: str, raw: _Raw, names: list[str] | None) -> Source:
    """Turn raw labels, either names or positions in ``names``, into class numbers.

    Without ``names``, the classes are the labels that train has, sorted.

    Raises:
        InputError: there are fewer than two classes, train lacks one, a part is empty or has other labels.
    """
    labels = raw["train"][1]
    if names is None:
        known = np.unique(labels)
    else:
        known = np.array(names) if labels.dtype.kind == "U" else np.arange(len(names))
    classes = tuple(names or map(str, known))
    parts = {part: _number(f"{part} of {where}", *raw[part], known) for part in raw}
    if len(classes) < 2:
        raise InputError(f"{where} has only the class {classes[0]!r}; a classifier needs two or more")
    for empty in np.setdiff1d(np.arange(len(classes)), parts["train"].labels):
        raise InputError(f"class {classes[empty]!r} of {where} has no images in train; add some")
    return Source(classes, parts)


def _number(where: str, items: Items, labels: NDArray[Any], known: NDArray[Any]) -> Part:
    if len(labels) == 0:
        raise InputError(f"{where} has no images")
    for other in np.setdiff1d(labels, known):
        raise InputError(f"{where} has the label {str(other)!r}, not one of {len(known)} classes of train")
    return Part(where, items, np.searchsorted(known, labels).astype(np.int64))


def _read_digits() -> Source:
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # 0..16 to 0..255
    return _label("digits", {"train": (images[..., None], bunch.target)}, None)


def _read_npz(path: Path) -> Source:
    arrays = _npz_arrays(path)
    for name in _NPZ_NAMES[:4]:
        if name not in arrays:
            raise InputError(f"{path} has no array {name!r}; it needs x_train, y_train, x_test and y_test")
    raw = {part: _npz_part(path, arrays, part) for part in ("train", "test")}
    classes = arrays.get("classes")
    if classes is not None and (classes.dtype.kind != "U" or classes.ndim != 1):
        raise InputError(f"classes in {path} must be a list of text, got {classes.dtype} {classes.shape}")
    return _label(str(path), raw, None if classes is None else classes.tolist())


def _npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name in _NPZ_NAMES}
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = "it holds pickled objects" if "Object arrays" in str(error) else "it is damaged or no .npz file"
        raise InputError(f"cannot read {path}: {reason}; save plain arrays with numpy.savez") from None


def _npz_part(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> tuple[Items, NDArray[Any]]:
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    shaped = x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))
    if x.dtype != np.uint8 or not shaped or 0 in x.shape[1:]:
        form = "uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
        raise InputError(f"x_{part} in {path} must be {form}, got {x.dtype} {x.shape}")
    if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise InputError(f"y_{part} in {path} must be {len(x)} whole numbers, got {y.dtype} {y.shape}")
    return (x if x.ndim == 4 else x[..., None]), y


def _locate_parquet(folder: Path) -> Located:
    files = {part: sorted(folder.glob(f"{name}-*.parquet")) for part, name in _PARQUET_PARTS.items()}
    for part in ("train", "test"):
        if not files[part]:
            raise InputError(f"{folder} has no {part}-*.parquet file; a parquet source needs train and test")

    def read() -> Source:
        tables = {part: _read_table(paths) for part, paths in files.items() if paths}
        raw = {part: (items, labels) for part, (items, labels, _) in tables.items()}
        return _label(str(folder), raw, tables["train"][2])

    return Located(tuple(path for paths in files.values() for path in paths), read)


def _read_table(paths: list[Path]) -> tuple[list[bytes], NDArray[Any], list[str] | None]:
    """Return encoded images, raw labels and, where the features have them, class names."""
    import datasets  # takes a second to import
    import pyarrow

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # our error says it
    # The library leaves a lock file in its cache even when streaming: that must not be the user's home.
    with tempfile.TemporaryDirectory() as scratch:
        try:
            rows = datasets.IterableDataset.from_parquet([str(path) for path in paths], cache_dir=scratch)
            image, label = _column(rows, ("image", "img"), paths[0]), _column(rows, ("label",), paths[0])
            rows = rows.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
            tables = list(rows.with_format("arrow").iter(1000))
        except (pyarrow.ArrowException, OSError, TypeError) as error:
            raise InputError(f"cannot read {paths[0]}: {' '.join(str(error).split())}") from None
    items = [row and row["bytes"] for table in tables for row in table[image].to_pylist()]
    labels = np.array([value for table in tables for value in table[label].to_pylist()])
    if not all(items) or labels.dtype.kind not in "iuU":
        raise InputError(f"{paths[0]}: each row needs image bytes and a label (a whole number or text)")
    return items, labels, getattr(rows.features[label], "names", None)


def _column(rows: Any, accepted: tuple[str, ...], path: Path) -> str:
    if not (found := [name for name in accepted if name in rows.features]):
        raise InputError(f"{path} has no column {' or '.join(accepted)}, only {', '.join(rows.features)}")
    return found[0]


def decode(parts: dict[str, Part], size: tuple[int, int, int] | int | None) -> dict[str, NDArray[np.uint8]]:
    """Return the images of each part as (N, H, W, C) of one ``size``, as ``data.load_dataset`` explains it.

    Photos are turned upright as their EXIF orientation says, and stretched to the size (antialiased).

    Raises:
        InputError: ``size`` makes no sense, or an image cannot be decoded.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shape = size if isinstance(size, tuple) else _common_shape(pool, parts, size)
        if shape[0] not in (1, 3) or min(shape) < 1:
            raise InputError(f"images need 1 or 3 channels and at least 1 px, got (C, H, W) = {shape}")
        return {name: _decode_part(pool, part, shape) for name, part in parts.items()}


def _common_shape(pool: ThreadPoolExecutor, parts: dict[str, Part], px: int | None) -> tuple[int, int, int]:
    seen = {shape for part in parts.values() for shape in _mapped(pool, _probe, part)}
    sizes = {(height, width) for _, height, width in seen} if px is None else {(px, px)}
    height, width = sizes.pop() if len(sizes) == 1 else (_DEFAULT_PX, _DEFAULT_PX)
    return max(channels for channels, _, _ in seen), height, width


def _mapped(pool: ThreadPoolExecutor, work: Callable[[Any], Any], part: Part) -> Iterator[Any]:
    """Iterate over ``work(item)`` for the items of a part, in order."""

    def chunk(start: int) -> list[Any]:
        items = part.items[start : start + _CHUNK]
        return [_checked(work, item, f"{n} of {part.where}") for n, item in enumerate(items, start)]

    return chain.from_iterable(pool.map(chunk, range(0, len(part.items), _CHUNK)))


def _checked(work: Callable[[Any], Any], item: Item, name: str) -> Any:
    try:
        return work(item)
    except Exception as error:  # on damaged data, Pillow's decoders raise errors of many types
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(
            f"cannot decode image {item if isinstance(item, Path) else name} ({reason}); replace or delete it"
        ) from None


def _open(item: Item) -> Image.Image:
    if isinstance(item, np.ndarray):
        return Image.fromarray(item[..., 0] if item.shape[2] == 1 else item)
    return Image.open(io.BytesIO(item) if isinstance(item, bytes) else item)


def _probe(item: Item) -> tuple[int, int, int]:
    """Return the shape (C, H, W) that an image has when upright, from its header."""
    with _open(item) as image:
        lies = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # 5 to 8 swap the axes
        height, width = image.size if lies else image.size[::-1]
        return (1 if image.mode in _GRAY_MODES else 3), height, width


def _decode_part(pool: ThreadPoolExecutor, part: Part, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    images = np.empty((len(part.items), *shape[1:], shape[0]), np.uint8)
    if isinstance(part.items, np.ndarray) and part.items.shape == images.shape:
        return part.items
    for number, image in enumerate(_mapped(pool, lambda item: _decode(item, shape), part)):
        images[number] = image
    return images


def _decode(item: Item, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    channels, height, width = shape
    with _open(item) as image:
        image.draft(None, (2 * max(height, width),) * 2)  # large JPEG files: decode only what is needed
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # convert() would clip
        elif image.mode in ("I", "F"):
            raise ValueError("32 bits per pixel; 8 or 16 are accepted")
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(height, width, channels)
