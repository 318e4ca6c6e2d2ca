"""A run's folder belongs to one search and one process, and keeps work but no trace of what never began."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from latency.device import Device
from nas.config import SearchConfig
from nas.folder import open_folder, read_record, versions
from search_spaces.errors import InputError


def config(out: Path, **values: object) -> SearchConfig:
    return SearchConfig.checked(data="digits", out=out, **values)


def leave_some_work(out: Path) -> None:
    with open_folder(config(out), "first") as folder, folder.stage("oracle"):
        pass


def test_record(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    with open_folder(config(out, seed=3), "nas search") as folder:
        assert read_record(out)["commands"] == ["nas search"]
        with folder.stage("data"):
            pass
    record = read_record(out)
    assert record["seed"] == 3 and record["config"]["seed"] == 3 and record["identity"]["seed"] == 3
    assert record["versions"] == versions() and {"python", "torch", "onnxruntime"} <= versions().keys()
    assert set(record["stages"]) == {"data"}
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "run.lock"]


def test_paths(tmp_path: Path) -> None:
    with open_folder(config(tmp_path / "run"), "x") as folder:
        names = (
            "cpu",
            "cpu:threads=2",
            "cpu:int8",
            "ssh://me@board:22/cpu",
            "ssh://board/cpu:python=~/my venv/python",
        )
        devices = [Device.parse(name) for name in names]
        paths = [folder.journal, folder.supernet, folder.cache]
        paths += [place(device) for place in (folder.table, folder.measured) for device in devices]
        assert all(path.is_relative_to(tmp_path / "run") for path in paths)
        assert len(set(paths)) == 3 + 2 * len(devices)
        assert folder.table(devices[0]) == tmp_path / "run" / "tables" / "cpu.json"
        assert {path.parent.name for path in paths[3:]} == {"tables", "measured"}
        assert all(re.fullmatch(r"[\w.=-]+\.json", path.name) for path in paths[3:])


def test_commands_and_stage_times_accumulate(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for name in ("first", "second"):
        with open_folder(config(out), name) as folder:
            folder.record["stages"].setdefault("oracle", 10.0)
            with folder.stage("oracle"):
                pass
            with pytest.raises(KeyboardInterrupt), folder.stage("search"):
                raise KeyboardInterrupt
    record = read_record(out)
    assert record["commands"] == ["first", "second"]
    assert record["stages"]["oracle"] >= 10.0 and "search" in record["stages"]


@pytest.mark.parametrize(
    ("values", "flag"),
    [({"seed": 1}, "--seed"), ({"budget_ms": 2.0}, "--budget-ms"), ({"oracle": "train"}, "--oracle")],
)
def test_another_search_is_refused_by_its_flag(values: dict[str, object], flag: str, tmp_path: Path) -> None:
    leave_some_work(tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with (
        pytest.raises(InputError, match=f"holds another search: there {flag} was"),
        open_folder(config(tmp_path / "run", **values), "second"),
    ):
        pass
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_settings_are_told_as_they_are_given(tmp_path: Path) -> None:
    with open_folder(config(tmp_path / "run", space="nb201", start=("resnet", "none")), "first") as folder:
        folder.record["stages"]["search"] = 1.0
    with (
        pytest.raises(InputError, match="there --start was resnet,none, now it is not given; give the same settings"),
        open_folder(config(tmp_path / "run", space="nb201"), "second"),
    ):
        pass


def test_more_trials_are_the_same_search(tmp_path: Path) -> None:
    leave_some_work(tmp_path / "run")
    with open_folder(config(tmp_path / "run", trials=500, finalists=2, workers=2), "second") as folder:
        assert folder.record["config"]["trials"] == 500


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="holds other files"), open_folder(config(tmp_path), "x"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_empty_folder_is_taken_and_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="bad data"), open_folder(config(tmp_path / "run"), "x"):
        raise InputError("bad data")
    assert list((tmp_path / "run").iterdir()) == []


def test_out_that_is_a_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises((InputError, NotADirectoryError)), open_folder(config(out), "x"):
            pass
    assert (tmp_path / "file").read_text() == "text"


HOLD = """
import sys
from pathlib import Path
from nas.config import SearchConfig
from nas.folder import open_folder
with open_folder(SearchConfig.checked(data="digits", out=Path(sys.argv[1])), "other"):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "open\n"
        before = (out / "run.json").read_bytes()
        with pytest.raises(InputError, match="another process is at work"), open_folder(config(out), "mine"):
            pass
        assert (out / "run.json").read_bytes() == before
        other.kill()
    with open_folder(config(out), "mine") as folder:
        assert folder.record["commands"] == ["other", "mine"]


def test_input_error_before_any_work_leaves_no_trace(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError), open_folder(config(out), "x") as folder:
        (folder.cache / "deep").mkdir(parents=True)
        (folder.cache / "deep" / "file").touch()
        with folder.stage("table"):
            raise InputError("no such budget")
    assert not out.exists()
    with open_folder(config(out, seed=5), "corrected"):
        pass


def test_input_error_after_work_keeps_everything(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError), open_folder(config(out), "x") as folder:
        with folder.stage("oracle"):
            folder.supernet.write_bytes(b"weights")
        raise InputError("late")
    assert (out / "supernet.safetensors").read_bytes() == b"weights" and read_record(out)["commands"] == ["x"]


def test_other_errors_keep_everything(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt, RuntimeError, OSError):
        out = tmp_path / error.__name__
        with pytest.raises(error), open_folder(config(out), "x"):
            raise error
        assert (out / "run.json").exists()


def test_second_command_never_undoes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with open_folder(config(out), "first"):
        pass
    with pytest.raises(InputError), open_folder(config(out), "second"):
        raise InputError("bad table")
    assert read_record(out)["commands"] == ["first", "second"]


def test_no_run_or_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        read_record(tmp_path)
    leave_some_work(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_bytes(path.read_bytes().replace(b"digits", b"digitz"))
    with pytest.raises(InputError, match="checksum"), open_folder(config(tmp_path / "run"), "x"):
        pass
    assert os.path.exists(path)
