"""The command line: help with examples, exit codes, one line per mistake, JSON that scripts can read."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from fakes import made_up_table
from PIL import Image

import nas.cli  # noqa: F401  (registers the commands)
from latency.measure import MeasuringFailed
from latency.table import LatencyTable
from nas.cli.app import app
from nas.cli.errors import exit_code
from nas.delivery.export import ExportFailed
from nas.run import RunFailed
from nas.search.study import SearchFailed
from nas.training.train import TrainingDiverged
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

Cli = Callable[..., tuple[int, str, str]]
COMMANDS = [
    ["search"], ["front"], ["dashboard"], ["export"], ["devices"], ["train"], ["spaces", "list"], ["spaces", "show"],
    ["spaces", "sample"], ["table", "build"], ["table", "check"],
]  # fmt: skip


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run ``nas`` in an empty folder; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = exit_code(lambda: app([str(a) for a in arguments], standalone_mode=False))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refused(ran: tuple[int, str, str]) -> str:
    """Return the one line that a mistake gets."""
    code, _, err = ran
    assert code == 2, err
    return complaint(err)


def complaint(err: str) -> str:
    """Return the one line that is no news of a step (which ends in dots)."""
    *news, line = err.splitlines()
    assert all(each.endswith(" ...") and not each.startswith("nas:") for each in news), err
    assert line.startswith("nas: "), err
    return line


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "cpu.json"
    made_up_table(FBNetSpace((1, 8, 8), 10)).save(path)
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command: list[str], cli: Cli) -> None:
    code, out, _ = cli(*command, "--help")
    assert code == 0 and f"Example:  nas {' '.join(command)}" in " ".join(out.split("\n"))


def test_every_command_is_in_the_list_above() -> None:
    found = [[c.name or c.callback.__name__.rstrip("_")] for c in app.registered_commands if c.callback]
    for group in app.registered_groups:
        for c in group.typer_instance.registered_commands if group.typer_instance else ():
            found.append([str(group.name), str(c.name or (c.callback and c.callback.__name__))])
    assert sorted(found) == sorted(COMMANDS)


def raising(error: BaseException) -> Callable[[], object]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad\nthing"), 2),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
        (RunFailed("x"), 1),
        (SearchFailed("x"), 1),
        (MeasuringFailed("x"), 1),
        (ExportFailed("x"), 1),
        (TrainingDiverged("x"), 1),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 2),
    ],
)
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(raising(error)) == code
    err = capsys.readouterr().err
    assert err.startswith("nas: ") and err.count("\n") == 1


def test_our_own_bug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(raising(ZeroDivisionError("oops"))) == 1
    assert exit_code(raising(OSError(errno.EIO, "I/O error"))) == 1
    assert capsys.readouterr().err.count("Traceback") == 2


def test_success_and_given_codes() -> None:
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 1) == 1


def test_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from nas.cli import main; main()", "spaces", "show", "fbnet", "--arch", "fbnet_x"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr.count("\n") == 1 and "did you mean" in ran.stderr


def test_interrupted_search(cli: Cli, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.run._Run._train_supernet", lambda *_: raising(KeyboardInterrupt())())
    code, _, err = cli("search", "--data", "digits", "--out", "run", "--table", table)
    assert code == 130 and "the same command goes on from here" in complaint(err)
    assert (Path("run") / "run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--data", "digits", "--space", "fbnett"], "did you mean 'fbnet'"),
        (["--data", "digits", "--device", "cpuu"], "did you mean 'cpu'"),
        (["--data", "digits", "--sampler", "gpp"], "gpp"),
        (["--data", "digits", "--oracle", "guess"], "guess"),
        (["--data", "digits", "--trails", "9"], "--trials"),
        (["--data", "digits", "--trials", "many"], "--trials"),
        (["--data", "digits", "--trials", "1"], "--trials"),
        (["--data", "digits", "--budget-ms", "-1"], "--budget-ms"),
        (["--data", "digits", "--input", "4"], "px"),
        (["--data", "digits", "--input", "round"], "--input"),
        (["--data", "digits", "--table", "nowhere.json"], "nowhere.json"),
        (["--data", "digits", "--config", "nowhere.toml"], "nowhere.toml"),
        ([], "--data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_of_a_search(arguments: list[str], text: str, cli: Cli, tmp_path: Path) -> None:
    assert text in refused(cli("search", *arguments, "--out", "run"))
    assert list(tmp_path.iterdir()) == []


def test_unknown_command(cli: Cli) -> None:
    assert "search" in refused(cli("serch"))
    assert "sample" in refused(cli("spaces", "sampel"))


def test_folder_with_one_class(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "photos" / "cat" / "1.png")
    refused(cli("search", "--data", "photos", "--out", "run"))
    assert not (tmp_path / "run").exists()


def test_settings_from_toml(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("number = 3\nseed = 7\n")
    code, out, _ = cli("spaces", "sample", "fbnet", "--config", "s.toml", "--input", "8")
    assert code == 0 and out == cli("spaces", "sample", "fbnet", "-n", 3, "--seed", 7, "--input", "8")[1]
    # The command line wins.
    out = cli("spaces", "sample", "fbnet", "--config", "s.toml", "-n", 2, "--input", "8")[1]
    assert out.count("\n") == 2
    for text, said in (("sead = 1", "did you mean 'seed'"), ("seed = ", "no TOML"), ("seed = 'x'", "seed")):
        (tmp_path / "s.toml").write_text(text)
        assert said in refused(cli("spaces", "sample", "fbnet", "--config", "s.toml"))


def test_budget_below_the_fastest(cli: Cli, table: Path, tmp_path: Path) -> None:
    err = refused(cli("search", "--data", "digits", "--out", "run", "--table", table, "--budget-ms", "0.001"))
    assert "--budget-ms 0.001 is below the fastest network" in err
    told = float(err.split(" ms predicted")[0].split()[-1])
    assert 0.01 < told < 0.2 and list(tmp_path.iterdir()) == []


def test_table_damaged_by_one_byte(cli: Cli, table: Path, tmp_path: Path) -> None:
    content = bytearray(table.read_bytes())
    place = content.index(b'"cold_ms": 0.0') + 14
    content[place] = ord("1") if content[place] != ord("1") else ord("2")
    (tmp_path / "t.json").write_bytes(bytes(content))
    assert "checksum" in refused(cli("search", "--data", "digits", "--out", "run", "--table", "t.json"))
    assert "checksum" in refused(cli("table", "check", "t.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_table_of_another_machine_or_space(cli: Cli, table: Path, tmp_path: Path) -> None:
    found = LatencyTable.load(table)
    elsewhere = found.model_copy(update={"fingerprint": {**found.fingerprint, "cpu": "abacus"}})
    for changed, text in (
        (elsewhere, "abacus"),
        (found.model_copy(update={"classes": 11}), "11 classes"),
        (found.model_copy(update={"blocks": dict(list(found.blocks.items())[:5])}), "lacks"),
    ):
        changed.save(tmp_path / "t.json")
        assert text in refused(cli("search", "--data", "digits", "--out", "run", "--table", "t.json"))
        assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_out_of_another_search(cli: Cli, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.run._Run._train_supernet", lambda *_: raising(KeyboardInterrupt())())
    assert cli("search", "--data", "digits", "--out", "run", "--table", table)[0] == 130
    err = refused(cli("search", "--data", "digits", "--out", "run", "--table", table, "--seed", "4"))
    assert "--seed was 0, now it is 4" in err


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_out_at_or_below_a_file(out: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    refused(cli("search", "--data", "digits", "--out", out))
    assert (tmp_path / "file").read_text() == "text"
    export = ("export", "--arch", ",".join(["skip"] * 8), "--input", "8", "--classes", "10")
    if out == "file/run":
        refused(cli(*export, "--out", out))
        refused(cli("train", "--arch", ",".join(["skip"] * 8), "--data", "digits", "--epochs", "1", "--out", out))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can make a disk that is full")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_full_disk(full_disk: Path, cli: Cli) -> None:
    err = refused(cli("search", "--data", "digits", "--out", full_disk / "run"))
    assert "No space left on device" in err


def test_full_disk_as_the_system_tells_it(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    err = refused(cli("search", "--data", "digits", "--out", "run"))
    assert "No space left on device" in err
    assert not list((tmp_path / "run").glob("*.json"))


def test_port_in_use(cli: Cli, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.run._Run._train_supernet", lambda *_: raising(KeyboardInterrupt())())
    cli("search", "--data", "digits", "--out", "run", "--table", table)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"port {port} cannot be used" in refused(cli("dashboard", "run", "--port", port))
    refused(cli("dashboard", "run", "--port", 70000))


@pytest.mark.parametrize("command", [["front"], ["dashboard"], ["table", "check"]], ids=" ".join)
def test_nothing_there(command: list[str], cli: Cli, tmp_path: Path) -> None:
    assert "nowhere" in refused(cli(*command, "nowhere"))
    assert list(tmp_path.iterdir()) == []


def rows(ran: tuple[int, str, str]) -> list[dict[str, object]]:
    code, out, err = ran
    assert code == 0 and err == ""
    return [json.loads(line) for line in out.splitlines()]


def test_json_of_spaces(cli: Cli) -> None:
    (shown,) = rows(cli("spaces", "show", "fbnet", "--arch", "fbnet_b", "--json"))
    assert shown.keys() == {"architecture", "id", "macs", "params"}
    (again,) = rows(cli("spaces", "show", "fbnet", "--arch", shown["architecture"], "--json"))
    assert again == shown
    listed = rows(cli("spaces", "list", "--json"))
    assert {row["macro"] for row in listed} == {f"fbnet/{macro}" for macro in FBNetSpace.macros()}
    assert all(row.keys() == {"space", "macro", "input", "layers", "named"} for row in listed)


def test_samples_are_reproducible(cli: Cli) -> None:
    arguments = ("spaces", "sample", "fbnet", "-n", 200, "--seed", 7, "--input", "3x32x32", "--json")
    found = rows(cli(*arguments))
    assert len(found) == 200 and found == rows(cli(*arguments))
    assert found != rows(cli(*arguments[:6], 8, *arguments[7:]))
    space = FBNetSpace((3, 32, 32), 10)
    for row in found:
        architecture = space.parse(str(row["architecture"]))
        assert row == {
            "architecture": architecture.text,
            "id": architecture.id,
            "macs": space.macs(architecture),
            "params": space.params(architecture),
        }


def test_json_of_devices(cli: Cli) -> None:
    (found,) = rows(cli("devices", "--json"))
    assert {"device", "cpu", "provider", "threads", "batch", "precision"} <= found.keys() and found["device"] == "cpu"


def test_export(cli: Cli, tmp_path: Path) -> None:
    arch = ",".join(["skip"] * 8)
    code, out, _ = cli("export", "--arch", arch, "--input", "1x8x8", "--classes", 3, "--out", "net.onnx")
    assert code == 0 and "untrained" in out and (tmp_path / "net.onnx").exists()
    assert "ends early" in refused(cli("export", "--arch", "skip", "--input", "1x8x8", "--out", "b.onnx"))
    assert not (tmp_path / "b.onnx").exists()


def test_train_resumes_and_refuses_another_network(cli: Cli, tmp_path: Path) -> None:
    arguments = ["train", "--data", "digits", "--epochs", "1", "--out", "net", "--arch"]
    code, out, _ = cli(*arguments, "skip,k3_e1,skip,k3_e1,skip,k3_e1,skip,k3_e1")
    assert code == 0 and "test accuracy" in out
    model = (tmp_path / "net" / "model.onnx").read_bytes()
    assert cli(*arguments, "skip,k3_e1,skip,k3_e1,skip,k3_e1,skip,k3_e1")[1] == out
    assert (tmp_path / "net" / "model.onnx").read_bytes() == model
    err = refused(cli(*arguments, "skip,k3_e1,skip,skip,skip,k3_e1,skip,k3_e1"))
    assert "another network" in err
    assert (tmp_path / "net" / "model.onnx").read_bytes() == model
