"""Recorded tables: what is read, which row speaks for a network, how files are joined, and what is refused."""

import gzip
import pickle
from pathlib import Path

import pytest

from nas.training.recorded import (
    RecordedOracle,
    Rows,
    Source,
    accuracies,
    latencies,
    read_rows,
)
from search_spaces.errors import InputError
from search_spaces.nb201 import NB201Space, published

SPACE = NB201Space((3, 32, 32), 10)
SKIP = "none,none,none,skip_connect,none,none"
# Computes the same as SKIP: a path through a node, with nothing on it.
ROUNDABOUT = "none,skip_connect,none,none,none,skip_connect"
CONV = "none,none,none,nor_conv_3x3,none,none"


def rows_of(path: Path, text: str, column: str = "acc") -> Rows:
    path.write_text(text)
    return read_rows(Source(path, column))


def quoted(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def test_sources() -> None:
    assert Source.parse("table:a/b#c.csv#acc") == Source(Path("a/b#c.csv"), "acc")
    assert Source.parse("table:t.json") == Source(Path("t.json"), None)
    assert Source(Path("a/t.csv.gz"), "pixel3").name == "pixel3"
    assert Source(Path("a/pixel3.csv.gz"), "ms").name == "pixel3"
    assert Source(Path("/a/t.csv"), "x").text == "table:/a/t.csv#x"
    for text in ("table:t.csv", "table:t.csv#", "table:#acc", "table:"):
        with pytest.raises(InputError, match="names no column: give table:FILE#COLUMN"):
            Source.parse(text)


@pytest.mark.parametrize("name", ["architecture", "arch"])
@pytest.mark.parametrize("compressed", [False, True])
def test_rows_are_read(name: str, compressed: bool, tmp_path: Path) -> None:
    text = quoted(f"idx,{name},acc,other", f'7,"{SKIP}",10.5,x', f"8,{published(SPACE.parse(CONV))},20,")
    path = tmp_path / "t.csv"
    path.write_bytes(gzip.compress(text.encode()) if compressed else b"\xef\xbb\xbf" + text.encode())
    rows = read_rows(Source(path, "acc"))
    assert rows.named and [tuple(row) for row in rows.rows] == [
        (2, SKIP, "7", 10.5), (3, "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|", "8", 20.0)
    ]  # fmt: skip
    assert rows.sha256 == read_rows(Source(path, "acc")).sha256


def test_row_in_canonical_form_speaks_for_its_network(tmp_path: Path) -> None:
    first = SPACE.parse(ROUNDABOUT)
    assert first == SPACE.parse(SKIP) and SPACE.as_written(ROUNDABOUT) != first == SPACE.as_written(SKIP)
    text = quoted("arch,acc", f'"{ROUNDABOUT}",1', f'"{SKIP}",2', f'"{SKIP}",3')
    assert [row.value for row in rows_of(tmp_path / "t.csv", text).by_network(SPACE).values()] == [2]
    text = quoted("arch,acc", f'"{ROUNDABOUT}",1', f'"{CONV}",5', f'"{ROUNDABOUT}",4')
    found = rows_of(tmp_path / "t.csv", text).by_network(SPACE)
    assert {network: row.value for network, row in found.items()} == {first: 1, SPACE.parse(CONV): 5}


@pytest.mark.parametrize(("values", "expected"), [(("90", "0.5"), (0.9, 0.005)), (("1.0", "0.5"), (1.0, 0.5))])
def test_accuracies_are_fractions(values: tuple[str, str], expected: tuple[float, float], tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "t.csv", quoted("arch,acc", f'"{SKIP}",{values[0]}', f'"{CONV}",{values[1]}'))
    oracle = RecordedOracle(accuracies(rows, rows.by_network(SPACE)))
    assert [oracle.rate(SPACE.parse(text)) for text in (ROUNDABOUT, CONV)] == pytest.approx(expected)
    assert pickle.loads(pickle.dumps(oracle)).rate(SPACE.parse(SKIP)) == oracle.rate(SPACE.parse(SKIP))


def test_one_percent_anywhere_in_the_column_decides_also_of_rows_that_do_not_count(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "t.csv", quoted("arch,acc", f'"{ROUNDABOUT}",50', f'"{SKIP}",1'))
    assert RecordedOracle(accuracies(rows, rows.by_network(SPACE))).rate(SPACE.parse(SKIP)) == 0.01


def test_missing_network_is_named(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "t.csv", quoted("arch,acc", f'"{SKIP}",0.5'))
    oracle = RecordedOracle(accuracies(rows, rows.by_network(SPACE)))
    with pytest.raises(InputError, match=r"t\.csv has no row for nb201:none,none,none,nor_conv_3x3,none,none"):
        oracle.rate(SPACE.parse(CONV))


def test_latencies_by_architecture_and_by_idx(tmp_path: Path) -> None:
    oracle = rows_of(
        tmp_path / "o.csv", quoted("idx,arch,acc", f'1,"{ROUNDABOUT}",1', f'2,"{SKIP}",1', f'3,"{CONV}",1')
    )
    networks = oracle.by_network(SPACE)
    by_idx = rows_of(tmp_path / "i.csv", quoted("ms,idx", "30,3", "0.0,2", "10,1"), "ms")
    assert not by_idx.named
    found = latencies(by_idx, SPACE, oracle, networks)
    assert [found.of(SPACE.parse(text)) for text in (ROUNDABOUT, SKIP, CONV)] == [0, 0, 30]
    named = rows_of(tmp_path / "n.csv", quoted("architecture,ms", f'"{CONV}",3', f'"{ROUNDABOUT}",4'), "ms")
    found = latencies(named, SPACE, oracle, networks)
    assert [found.of(SPACE.parse(text)) for text in (ROUNDABOUT, SKIP, CONV)] == [4, 4, 3]


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ("idx,ms\n1,5\n2,6\n3,7\n", None, r"i\.csv, line 4: idx 3 has no partner in .*o\.csv"),
        ("idx,ms\n1,5\n", None, r"o\.csv, line 3: idx 2 has no partner in .*i\.csv"),
        ("idx,ms\n1,5\n2,6\n1,7\n", None, r"i\.csv, line 4: idx 1 is that of line 2 too"),
        ("idx,ms\n1,5\n,6\n", None, r"i\.csv, line 3: no idx"),
        (
            "idx,ms\n1,5\n2,6\n",
            f'idx,arch,acc\n1,"{SKIP}",1\n1,"{CONV}",1\n',
            r"o\.csv, line 3: idx 1 is that of line 2",
        ),
        ("idx,ms\n1,5\n2,6\n", f'arch,acc\n"{SKIP}",1\n', r"o\.csv, line 2: no idx"),
        (f'arch,ms\n"{SKIP}",1\n', None, r"i\.csv lacks 1 of the 2 networks of .*o\.csv: nb201:none,.*nor_conv_3x3"),
    ],
)
def test_files_that_do_not_belong_together(ours: str, theirs: str | None, said: str, tmp_path: Path) -> None:
    oracle = rows_of(tmp_path / "o.csv", theirs or f'idx,arch,acc\n1,"{SKIP}",1\n2,"{CONV}",1\n')
    with pytest.raises(InputError, match=said):
        latencies(rows_of(tmp_path / "i.csv", ours, "ms"), SPACE, oracle, oracle.by_network(SPACE))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "unknown column of .*t.csv: 'acc'"),
        (b"arch,accuracy\nx,1\n", "unknown column of .*t.csv: 'acc'; did you mean 'accuracy'"),
        (b"idx,arch,top1,top5\n1,x,1,1\n", "unknown column of .*t.csv: 'acc'; known: top1, top5"),
        (b"network,acc\nx,1\n", "needs a column architecture, arch or idx; it has network, acc"),
        (b"arch,acc\n", "has no rows"),
        (b"arch,acc\nx,1\nx,fast\n", "line 3: 'fast' is no number"),
        (b"arch,acc\nx,1\nx\n", "line 3: '' is no number"),
        (b"arch,acc\nx,nan\n", "line 2: 'nan' is no number"),
        (b"arch,acc\nx,inf\n", "line 2: 'inf' is no number"),
        (b"arch,acc\nx,-1\n", "line 2: '-1' is no number of zero or more"),
        (b"\xff\xfe\x00", "is no CSV text"),
        (b'arch,acc\n"x,1\n', "is no CSV text"),
        (gzip.compress(b"arch,acc\nx,1\n", mtime=0)[:-9], "is no CSV text: its compression is damaged"),
    ],
)
def test_files_that_are_no_tables(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_rows(Source(tmp_path / "t.csv", "acc"))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv does not exist"):
        read_rows(Source(tmp_path / "none.csv", "acc"))
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(Source(tmp_path, "acc"))
    with pytest.raises(InputError, match="is no CSV file: give table:FILE#COLUMN"):
        read_rows(Source(tmp_path / "t.json", None))


def test_rows_that_are_no_networks_and_values_that_are_no_accuracies(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "t.csv", quoted("arch,acc", f'"{SKIP}",1', f'"{CONV},none",1'))
    with pytest.raises(InputError, match=r"t\.csv, line 3: architecture .* has 7 options"):
        rows.by_network(SPACE)
    rows = rows_of(tmp_path / "t.csv", quoted("arch,acc", f'"{SKIP}",1', f'"{CONV}",101'))
    with pytest.raises(InputError, match=r"t\.csv, line 3: 101 is no accuracy"):
        accuracies(rows, rows.by_network(SPACE))
