"""Recorded tables: accuracies and latencies of whole networks that somebody else measured, one network per row.

Such tables are how searches are compared in seconds (NAS-Bench-201, ICLR 2020, arXiv 2001.00326; HW-NAS-Bench,
ICLR 2021, arXiv 2103.10584).
"""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from latency.files import sha256
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError, unknown
from search_spaces.space import SearchSpace, replay

PREFIX = "table:"
_ARCHITECTURE = ("architecture", "arch")
_IDX = "idx"


@dataclass(frozen=True)
class Source:
    """A column of a CSV file (``table:FILE#COLUMN``), or a latency table (``table:FILE.json``, without a column)."""

    path: Path
    column: str | None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read ``table:FILE#COLUMN`` or ``table:FILE.json``.

        Raises:
            InputError: a CSV file comes without a column.
        """
        place = text.removeprefix(PREFIX)
        if place.endswith(".json"):
            return cls(Path(place), None)
        file, _, column = place.rpartition("#")
        if not file or not column:
            raise InputError(f"{text} names no column: give {PREFIX}FILE#COLUMN")
        return cls(Path(file), column)

    @property
    def text(self) -> str:
        """The source in words that hold in any folder."""
        return f"{PREFIX}{self.path.absolute()}" + (f"#{self.column}" if self.column else "")

    @property
    def name(self) -> str:
        """What the column is called; the file's name where the column only names the unit."""
        return self.path.name.partition(".")[0] if self.column in ("ms", None) else str(self.column)


class Row(NamedTuple):
    """One row: line number, architecture and ``idx`` as they stand there (empty where there is none), and value."""

    line: int
    architecture: str
    idx: str
    value: float


@dataclass(frozen=True)
class Rows:
    """What a column holds, the SHA-256 of its file, and whether its rows name their architecture."""

    path: Path
    sha256: str
    named: bool
    rows: Sequence[Row]

    def by_idx(self) -> dict[str, Row]:
        """Return the rows by ``idx``.

        Raises:
            InputError: two rows have the same one, or a row has none; its line is named.
        """
        found: dict[str, Row] = {}
        for row in self.rows:
            if not row.idx:
                raise InputError(f"{self.path}, line {row.line}: no {_IDX}, by which the tables are joined")
            if found.setdefault(row.idx, row) is not row:
                first = found[row.idx].line
                raise InputError(f"{self.path}, line {row.line}: {_IDX} {row.idx} is that of line {first} too")
        return found

    def by_network(self, space: SearchSpace) -> dict[Architecture, Row]:
        """Return the row of each architecture of ``space``: the one written as it is, else the first that is equal.

        Rows of one network may differ, as each was trained and timed by itself; like the benchmarks of the field
        this evaluates single rows, no averages.

        Raises:
            InputError: a row is no architecture of the space; its line is named.
        """
        written = [self._as_written(space, row) for row in self.rows]
        networks = [replay(space, dict(architecture.decisions)) for architecture in written]
        found: dict[Architecture, Row] = {}
        for architecture, network, row in zip(written, networks, self.rows, strict=True):
            if architecture == network:
                found.setdefault(network, row)
        for network, row in zip(networks, self.rows, strict=True):
            found.setdefault(network, row)
        return found

    def repeats(self, space: SearchSpace) -> bool:
        """Tell whether equal networks have rows of their own because they are written differently.

        Raises:
            InputError: a row is no architecture of the space; its line is named.
        """
        written = {self._as_written(space, row) for row in self.rows}
        return len({space.canonical(architecture) for architecture in written}) < len(written)

    def _as_written(self, space: SearchSpace, row: Row) -> Architecture:
        try:
            return space.as_written(row.architecture)
        except InputError as error:
            raise InputError(f"{self.path}, line {row.line}: {error}") from None


def read_rows(source: Source) -> Rows:
    """Read a column of a CSV file, compressed by gzip or not.

    Raises:
        InputError: the file cannot be read, lacks a column, or a value is no number or negative; the line is named.
    """
    path, column = source.path, source.column
    if column is None:
        raise InputError(f"{path} is no CSV file: give {PREFIX}FILE#COLUMN")
    content = _content(path)
    try:
        reader = csv.DictReader(io.StringIO(_text(content), newline=""), strict=True)
        columns = list(reader.fieldnames or ())
        if column not in columns:
            raise unknown(f"column of {path}:", column, set(columns) - {*_ARCHITECTURE, _IDX})
        architecture = next((name for name in _ARCHITECTURE if name in columns), "")
        if not architecture and _IDX not in columns:
            raise InputError(f"{path} needs a column architecture, arch or {_IDX}; it has {', '.join(columns)}")
        rows = [
            Row(
                reader.line_num, (row.get(architecture) or "").strip(), (row.get(_IDX) or "").strip(),
                _number(path, reader.line_num, row[column]),
            )
            for row in reader
        ]  # fmt: skip
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV text: {error}") from None
    if not rows:
        raise InputError(f"{path} has no rows")
    return Rows(path, sha256(content), bool(architecture), rows)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _text(content: bytes) -> str:
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise csv.Error(f"its compression is damaged ({error})") from None
    return content.decode("utf-8-sig")


def _number(path: Path, line: int, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"{path}, line {line}: {text or ''!r} is no number of zero or more")
    return value


@dataclass(frozen=True)
class Recorded:
    """One recorded value per network, from the file ``path``."""

    path: Path
    values: Mapping[Architecture, float]

    def of(self, architecture: Architecture) -> float:
        """Return the value of a network.

        Raises:
            InputError: the table lacks it.
        """
        try:
            return self.values[architecture]
        except KeyError:
            raise InputError(f"{self.path} has no row for {architecture.text}, which the search asks for") from None


def accuracies(rows: Rows, networks: Mapping[Architecture, Row]) -> Recorded:
    """Return the accuracy in [0, 1] of each of ``networks``; a column with values above 1 is in percent.

    Raises:
        InputError: a value is above 100.
    """
    highest = max(rows.rows, key=lambda row: row.value)
    if highest.value > 100:
        raise InputError(f"{rows.path}, line {highest.line}: {highest.value:g} is no accuracy, in % or as a fraction")
    scale = 100 if highest.value > 1 else 1
    return Recorded(rows.path, {network: row.value / scale for network, row in networks.items()})


def latencies(rows: Rows, space: SearchSpace, oracle: Rows, networks: Mapping[Architecture, Row]) -> Recorded:
    """Return the latency (ms) of each of ``networks``, which ``oracle`` has the accuracies of.

    Rows that do not name their architecture are joined with those of ``oracle`` by ``idx``.

    Raises:
        InputError: a network has no row, or a row has no partner.
    """
    if rows.named:
        own = rows.by_network(space)
        missing = [network for network in networks if network not in own]
        if missing:
            raise InputError(
                f"{rows.path} lacks {len(missing)} of the {len(networks)} networks of {oracle.path}: {missing[0].text}"
            )
        return Recorded(rows.path, {network: own[network].value for network in networks})
    ours, theirs = rows.by_idx(), oracle.by_idx()
    if alone := [row for idx, row in ours.items() if idx not in theirs]:
        raise _no_partner(rows.path, alone[0], oracle.path)
    if alone := [row for idx, row in theirs.items() if idx not in ours]:
        raise _no_partner(oracle.path, alone[0], rows.path)
    return Recorded(rows.path, {network: ours[row.idx].value for network, row in networks.items()})


def _no_partner(path: Path, row: Row, elsewhere: Path) -> InputError:
    return InputError(f"{path}, line {row.line}: {_IDX} {row.idx} has no partner in {elsewhere}")


class RecordedOracle:
    """Looks accuracies up in a table."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded

    def rate(self, architecture: Architecture) -> float:
        """Return the recorded accuracy in [0, 1].

        Raises:
            InputError: the table lacks the network.
        """
        return self._recorded.of(architecture)
