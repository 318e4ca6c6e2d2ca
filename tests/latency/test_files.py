"""Files are whole or not there, and no damage to a sealed one goes unseen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latency.files import produce, read_sealed, replacing, sha256, write_bytes, write_sealed, write_text
from search_spaces.errors import InputError

BODY = {"name": "café", "rows": [{"ms": 1.25e-05, "n": 10}, {"ms": 0.5, "n": None}], "ok": True}


class Stop(BaseException):
    """Not an ``Exception``, as a keyboard interrupt is not."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, Stop])
@pytest.mark.parametrize("old", [b"old", None])
def test_failure_inside_replacing_leaves_everything_as_it_was(
    old: bytes | None, error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error), replacing(path) as file:
        file.write(b"half of the ne")
        raise error
    assert names(tmp_path) == ([] if old is None else ["file"])
    assert old is None or path.read_bytes() == old


def test_file_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "file"
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new" and names(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("write", [write_bytes, write_text])
def test_writing_replaces(write: Callable[[Path, Any], None], tmp_path: Path) -> None:
    for content in ("a longer text", "é"):
        write(tmp_path / "file", content.encode() if write is write_bytes else content)
        assert (tmp_path / "file").read_text("utf-8") == content
    assert names(tmp_path) == ["file"]


def test_produce_moves_the_finished_file(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        assert path.parent == tmp_path / "new" and path.suffix == ".png"
        path.write_text("picture")
        assert not (tmp_path / "new" / "a.png").exists()

    produce(tmp_path / "new" / "a.png", write)
    assert names(tmp_path / "new") == ["a.png"]


def test_produce_leaves_the_old_file_if_it_fails(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("old")

    def write(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        produce(tmp_path / "a.png", write)
    assert names(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_text() == "old"


def test_sha256_of_nothing() -> None:
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_sealed_file_reads_back(tmp_path: Path) -> None:
    write_sealed(tmp_path / "table.json", 3, BODY)
    assert read_sealed(tmp_path / "table.json", 3, "table") == BODY
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["schema_version"] == 3 and len(content["sha256"]) == 64


def read_or_none(path: Path) -> dict[str, Any] | None:
    try:
        return read_sealed(path, 1, "table")
    except InputError:
        return None


def test_no_flipped_bit_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_sealed(path, 1, BODY)
    whole = path.read_bytes()
    harmless = set()
    for place in range(len(whole)):
        for mask in (*(1 << bit for bit in range(8)), 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            found = read_or_none(path)
            if found is not None:
                assert found == BODY, (place, mask)
                harmless.add(whole[place : place + 1])
    # Another white space, or another spelling of the same number or escape, is no damage.
    assert harmless <= {b" ", b"\n", b"e", b"a", b"c", b"d", b"b", b"f"}


def test_no_missing_or_added_byte_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_sealed(path, 1, BODY)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place])
        assert read_or_none(path) is None or not whole[place:].strip()
        for changed in (whole[:place] + whole[place + 1 :], whole[:place] + b"0" + whole[place:]):
            path.write_bytes(changed)
            assert read_or_none(path) in (None, BODY), place


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "table .*table.json does not exist"),
        (b"", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[1, 2]", "is not a table: it has no schema_version"),
        (b'{"a": 1}', "is not a table: it has no schema_version"),
        (b'{"schema_version": 2}', "has schema version 2; this version reads 1$"),  # deleting it would be a pity
        (b'{"schema_version": 0}', "has schema version 0; this version reads 1; delete it to make it anew$"),
        (b'{"schema_version": 1}', "checksum does not match"),
        (b'{"schema_version": 1, "sha256": null}', "checksum does not match"),
    ],
)
def test_what_is_not_a_sealed_file(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_sealed(path, 1, "table")
    assert "\n" not in str(caught.value)
