"""The command line: help with examples, exit codes, one line per mistake, JSON that scripts can read."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from fakes import MadeUpDevice, made_up_table
from PIL import Image

import nas.cli  # noqa: F401  (registers the commands)
from latency import build
from latency.calibrate import Calibration
from latency.device import Device
from latency.files import read_sealed
from latency.host import fingerprint
from latency.measure import MeasuringFailed
from latency.table import LatencyTable
from nas.cli.app import app
from nas.cli.console import show_front
from nas.cli.errors import exit_code
from nas.config import SearchConfig
from nas.delivery.export import ExportFailed
from nas.delivery.front import Candidate, DeviceFront, Front, select
from nas.delivery.value import Point, compare
from nas.jobs import RunFailed
from nas.search.study import SearchFailed
from nas.training.train import TrainingDiverged
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.hybrid import HybridSpace
from search_spaces.nb201 import NB201Space, published
from search_spaces.space import sample as draw

Cli = Callable[..., tuple[int, str, str]]
COMMANDS = [
    ["search"], ["front"], ["dashboard"], ["export"], ["devices"], ["train"], ["measure"], ["spaces", "list"],
    ["spaces", "show"], ["spaces", "sample"], ["table", "build"], ["table", "check"], ["table", "fit"],
    ["table", "recalibrate"], ["supernet", "report"],
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
        (["--data", "digits", "--device", "cpu", "--device", "cpu:threads=1"], "each device may be given once"),
        (["--data", "digits", "--device", "cpu:fast"], "unknown option of device 'cpu:fast'"),
        (["--data", "digits", "--sampler", "gpp"], "gpp"),
        (["--data", "digits", "--oracle", "guess"], "guess"),
        (["--data", "digits", "--trails", "9"], "--trials"),
        (["--data", "digits", "--trials", "many"], "--trials"),
        (["--data", "digits", "--trials", "1"], "--trials"),
        (["--data", "digits", "--budget-ms", "-1"], "--budget-ms"),
        (["--data", "digits", "--time", "5 parrots"], "--time: give a time such as 90s, 30m, 2h or 1h30m, got '5 par"),
        (["--data", "digits", "--oracle", "auto"], "give --time too"),
        (["--data", "digits", "--ema", "1"], "--ema"),
        (["--data", "digits", "--distil", "0.5", "--oracle", "train"], "--distil 0.5 needs a supernet"),
        (
            ["--data", "digits", "--oracle", "blockwise", "--space", "nb201"],
            "--oracle blockwise trains stages that follow one another, which networks of nb201 do not have: give -",
        ),
        *(
            (
                ["--data", "digits", "--space", "einspace", f"--{flag}", value],
                f"--{flag} {value}: networks of einspace have no layers in common to share weights; "
                f"give --{flag} {good}",
            )
            for flag, value, good in (
                ("oracle", "blockwise", "train"),
                ("oracle", "supernet", "train"),
                ("sampler", "fpnas", "gp"),
                ("sampler", "dnas", "gp"),
            )
        ),
        (
            ["--data", "digits", "--sampler", "dnas"],
            "dnas learns a distribution at a latency: give --budget-ms",
        ),
        (
            ["--data", "digits", "--sampler", "dnas", "--budget-ms", "1", "--space", "nb201"],
            "layers that follow one another, which nb201 does not consist of; --sampler fpnas takes any space",
        ),
        (["--data", "digits", "--start", "fbnet_b"], "--start fbnet_b: it belongs to the space 'fbnet/imagenet"),
        (
            ["--data", "digits", "--space", "nb201", "--start", "all_conv3x3,resnett"],
            "unknown start for nb201 at 1x8x8: 'resnett'; did you mean 'resnet'?",
        ),
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


def test_mistakes_of_a_training(cli: Cli, tmp_path: Path) -> None:
    command = ("train", "--arch", ",".join(["skip"] * 8), "--data", "digits", "--out", "net")
    for flag, value in (("--label-smoothing", 1), ("--mixup", -1), ("--cutmix", "inf"), ("--ema", 1)):
        assert f"{flag}: " in refused(cli(*command, flag, value))
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


def test_supernet_report_refuses(cli: Cli, tmp_path: Path) -> None:
    command = ("supernet", "report", "--data", "digits", "--out", "r")
    assert "--networks" in refused(cli(*command, "--networks", 3))
    err = refused(cli(*command, "--space", "nb201", "--supernet-paths", "fair"))
    assert "decisions of nb201 depend on each other: give single or sandwich" in err
    err = refused(cli(*command, "--space", "nb201", "--oracle", "blockwise"))
    assert "stages that follow one another, which networks of nb201 do not have" in err
    assert not (tmp_path / "r").exists()
    assert "unknown space" in refused(cli(*command, "--space", "nb202"))


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
    assert shown.keys() == {"architecture", "id", "macs", "params", "trainable"}
    (again,) = rows(cli("spaces", "show", "fbnet", "--arch", shown["architecture"], "--json"))
    assert again == shown
    (f4,) = rows(cli("spaces", "show", "fbnetv2", "--arch", "fbnetv2_f4", "--json"))
    assert (f4["macs"], f4["params"]) == (238_351_984, 6_994_824)
    (s1,) = rows(cli("spaces", "show", "hybrid", "--arch", "shvit_s1", "--json"))
    assert (s1["macs"], s1["params"], s1["trainable"]) == (241_365_312, 6_283_328, 6_330_808)
    listed = rows(cli("spaces", "list", "--json"))
    families = {f"{kind.family}/{macro}" for kind in (FBNetSpace, FBNetV2Space, HybridSpace) for macro in kind.macros()}
    assert {row["macro"] for row in listed} == {*families, "nb201", "einspace"}
    assert all(row.keys() == {"space", "macro", "input", "decisions", "named"} for row in listed)


def test_networks_that_branch_are_shown_as_a_tree(cli: Cli) -> None:
    code, out, _ = cli("spaces", "show", "einspace", "--arch", "vit", "--input", "3x32x32", "--classes", 10)
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("einspace ") and lines[0].endswith(": 3x32x32 to 10 classes")
    assert lines[1:3] == ["image  3x32x32", "├─ im2col_k4s4  64x48"]
    assert lines[-2].startswith("total, with pooling and classifier: ") and "4,256," in lines[-2]
    assert lines[-1].startswith("text: einspace:seq,route,im2col_k4s4")
    (shown,) = rows(cli("spaces", "show", "einspace", "--arch", "vit", "--input", "3x32x32", "--classes", 10, "--json"))
    assert shown["params"] == 48 * 512 + 64 * 512 + 4 * 1_048_576 + 5120
    assert "did you mean 'vit'" in refused(cli("spaces", "show", "einspace", "--arch", "wit"))


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


@pytest.fixture
def timings(tmp_path: Path) -> Path:
    """Timings of 40 cells that cost 1 ms and 0.1 ms per million MACs."""
    space, rng = NB201Space((3, 32, 32), 10), np.random.default_rng(0)
    drawn = [draw(space, rng) for _ in range(40)]
    lines = [f"{published(a)},{1 + 1e-7 * space.macs(a)}" for a in drawn]
    (tmp_path / "phone.csv").write_text("\n".join(["architecture,ms", *lines]) + "\n")
    return tmp_path / "phone.csv"


def test_table_fit_and_what_it_predicts(cli: Cli, timings: Path) -> None:
    code, out, _ = cli("table", "fit", timings, "--space", "nb201", "--out", "t.json")
    assert code == 0 and "phone: 3" in out and "cross-validated" in out
    assert "t.json exists" in refused(cli("table", "fit", timings, "--space", "nb201", "--out", "t.json"))
    space = NB201Space((3, 32, 32), 10)
    for row in rows(cli("spaces", "sample", "nb201", "--table", "t.json", "--json")):
        assert row["predicted_ms"] == pytest.approx(1 + 1e-7 * space.macs(space.parse(str(row["architecture"]))), 0.05)
    assert "predicted ms" in cli("spaces", "sample", "nb201", "--table", "t.json")[1]
    assert "predicted ms" in cli("spaces", "show", "nb201", "--arch", "resnet", "--table", "t.json")[1]
    assert "is for the space nb201" in refused(cli("spaces", "sample", "fbnet", "--table", "t.json"))
    assert "is for 3x32x32" in refused(cli("spaces", "sample", "nb201", "--table", "t.json", "--input", "64"))


def test_measured_table_predicts_too(cli: Cli, table: Path) -> None:
    (shown,) = rows(cli("spaces", "sample", "fbnet", "-n", 1, "--table", table, "--json"))
    space = FBNetSpace((1, 8, 8), 10)
    expected = LatencyTable.load(table).predict_ms(space.blocks(space.parse(str(shown["architecture"]))))
    assert shown["predicted_ms"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("architecture,ms", "arch,ms"), "lack the column 'architecture'"),
        (("nor_conv_3x3~0", "nor_conv_5x5~0"), "did you mean 'nor_conv_"),
        (("|,", "|,-"), "line 2: ms must be a positive number"),
        (("|,", "?,"), "line 2: architecture"),
    ],
)
def test_mistakes_of_a_fit(change: tuple[str, str], said: str, cli: Cli, timings: Path, tmp_path: Path) -> None:
    timings.write_text(timings.read_text().replace(*change))
    assert said in refused(cli("table", "fit", timings, "--space", "nb201", "--out", "t.json"))
    timings.write_text("architecture,ms\n")
    assert "10 networks or more, got 0" in refused(cli("table", "fit", timings, "--space", "nb201", "--out", "t.json"))
    assert "cannot be read" in refused(cli("table", "fit", "nowhere.csv", "--space", "nb201", "--out", "t.json"))
    assert [path.name for path in tmp_path.iterdir()] == [timings.name]


def test_json_of_devices(cli: Cli) -> None:
    found = rows(cli("devices", "--json"))
    assert found[0] == {**fingerprint(Device()), "quantity": "cold_cpu_ms"}
    assert all(Device.parse(str(row["device"])).name == row["device"] for row in found)
    named = rows(cli("devices", "--device", "cpu:threads=1", "--device", "cpu:batch=2,threads=2", "--json"))
    assert [row["device"] for row in named] == ["cpu", "cpu:threads=2,batch=2"]
    assert named[0] == found[0]
    assert (named[1]["threads"], named[1]["batch"], named[1]["quantity"]) == ("2", "2", "cold_wall_ms")


def test_devices_in_words(cli: Cli) -> None:
    code, out, _ = cli("devices", "--device", "cpu", "--device", "cpu:threads=2")
    assert code == 0 and out.splitlines()[0] == "cpu" and "cpu:threads=2" in out.splitlines()
    assert "CPU time of the first call after other work" in out and "wall time of the first call" in out
    assert "did you mean 'cpu'" in refused(cli("devices", "--device", "cpuu"))
    assert "ONNX Runtime has no NnapiExecutionProvider" in refused(cli("devices", "--device", "nnapi"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> MadeUpDevice:
    """In the place of every measurement of a table."""
    made_up = MadeUpDevice(FBNetSpace((1, 8, 8), 10))
    monkeypatch.setattr(build, "measure", made_up)
    return made_up


BUILD = ("table", "build", "--input", "1x8x8", "--out", "t.json")


def test_table_build(cli: Cli, device: MadeUpDevice) -> None:
    code, out, err = cli(*BUILD, "--device", "cpu:threads=1", "--seed", 3)
    assert code == 0 and err == "measuring blocks on cpu ...\n"
    table = LatencyTable.load(Path("t.json"))
    assert (table.device, table.space, table.classes, table.protocol["seed"]) == ("cpu", "fbnet/small-8", 10, 3)
    assert f"{len(table.blocks)} blocks of fbnet/small-8 measured on {table.fingerprint['cpu']}" in out
    assert f"latency table: {table.quality.text()}" in out and "quiet" in out and "written: t.json" in out
    assert "t.json holds every block already; `nas table check t.json`" in refused(cli(*BUILD))
    assert len(device.asked) == 1 and LatencyTable.load(Path("t.json")) == table


def test_table_build_adds_what_is_missing(cli: Cli, device: MadeUpDevice) -> None:
    cli(*BUILD)
    whole = LatencyTable.load(Path("t.json"))
    part = whole.model_copy(update={"blocks": dict(list(whole.blocks.items())[2:])})
    part.save(Path("t.json"))
    assert "was measured elsewhere: its device is 'cpu'" in refused(cli(*BUILD, "--device", "cpu:int8"))
    assert "not for fbnet/small-8 at (1, 8, 8) with 11" in refused(cli(*BUILD, "--classes", 11))
    assert LatencyTable.load(Path("t.json")) == part
    code, out, err = cli(*BUILD)
    assert code == 0 and out == "2 blocks added to t.json\n" and err == "measuring 2 blocks on cpu ...\n"
    again = LatencyTable.load(Path("t.json"))
    assert again.extends(part) and again.blocks.keys() == whole.blocks.keys()


def test_table_check_and_recalibrate(cli: Cli, device: MadeUpDevice) -> None:
    cli(*BUILD)
    code, out, _ = cli("table", "check", "t.json")
    assert code == 0 and out.splitlines()[-2:] == ["drift: measured / predicted is 1.000", "the table holds"]
    assert "when built: error 0.0 % on 16 unseen" in out and "now, drift taken out: error 0.0 % on 12 unseen" in out

    device.factor = 1.2
    code, out, _ = cli("table", "check", "t.json")
    assert code == 1 and "drift: measured / predicted is 1.200" in out and "error 0.0 % on 12 unseen" in out
    assert "the device has drifted: `nas table recalibrate t.json` measures a few networks" in out
    code, out, err = cli("table", "recalibrate", "t.json")
    assert code == 0 and "written: t.json" in out and err == "measuring networks on cpu ...\n"
    assert cli("table", "check", "t.json")[0] == 0

    device.calibration = Calibration(slope=-1, offset_ms=2, block_ms=0, switch_share=0)
    code, out, _ = cli("table", "check", "t.json")
    assert code == 1 and out.splitlines()[-1] == "the table no longer holds: build it anew"


@pytest.mark.parametrize("command", ["check", "recalibrate"])
def test_tables_that_cannot_be_checked(command: str, cli: Cli, timings: Path, table: Path, tmp_path: Path) -> None:
    cli("table", "fit", timings, "--space", "nb201", "--out", "fitted.json")
    said = refused(cli("table", command, "fitted.json"))
    assert "fitted.json was fitted to timings; a measured table is needed here: `nas table build` makes one" in said
    assert "fitted to timings" in refused(cli("search", "--data", "digits", "--out", "run", "--table", "fitted.json"))
    found = LatencyTable.load(table)
    found.model_copy(update={"fingerprint": {**found.fingerprint, "cores": "99"}}).save(tmp_path / "elsewhere.json")
    assert "its cores is '99'" in refused(cli("table", command, "elsewhere.json"))
    found.model_copy(update={"space": "toy"}).save(tmp_path / "toy.json")
    assert "unknown space 'toy'" in refused(cli("table", command, "toy.json"))


def candidate(identity: str, measured_ms: float, predicted_ms: float) -> Candidate:
    return Candidate(
        id=identity, architecture="toy:x", origin="search", search_accuracy=0.5, val_accuracy=measured_ms / 10,
        test_accuracy=0.4, float_val_accuracy=0.5, predicted_ms=predicted_ms,
        accurate_prediction=abs(measured_ms / predicted_ms - 1) <= 0.05, measured_ms=measured_ms,
        measured_ms_low=measured_ms - 0.1, measured_ms_high=measured_ms + 0.1, macs=12_300_000, params=9, onnx="x.onnx",
        onnx_sha256="0", max_difference=0.0, certificate="x.certificate.json",
    )  # fmt: skip


@pytest.mark.parametrize("off", [True, False])
def test_front_in_words(off: bool, capsys: pytest.CaptureFixture[str]) -> None:
    finalists = [
        candidate("near", 2.0, 2.04),
        candidate("other", 4.0, 3.0 if off else 4.0),
        candidate("slow", 9.0, 9.0),
    ]
    front, rejected = select(finalists, 5.0)
    device = DeviceFront(
        device="cpu", fingerprint={}, budget_ms=5.0, drift=1.25, host="", certificates={}, candidates=front,
        rejected=rejected,
    )  # fmt: skip
    show_front(
        Front(space="toy", input_shape=(1, 8, 8), data="d", data_digest="", classes=("a", "b"), devices=(device,))
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Front on cpu, budget 5 ms"
    assert lines[2].split() == "near 20.00 40.00 2.04 2 1.9-2.1 12.3 search".split()
    assert lines[3].split() == f"other 40.00 40.00 {'3!' if off else '4'} 4 3.9-4.1 12.3 search".split()
    told = (
        "! more than 5 % from what was measured; the device is now at 1.250 x the latency of when its table was built"
    )
    assert (told in lines) is off
    assert "no comparison with the hand-made family: it takes networks of both within the budget (--family)" in lines
    assert lines[-1] == "not on the front: slow (search, 90.00 %, 9 ms measured): over the budget of 5.0 ms"


def test_comparison_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    near = candidate("near", 2.0, 2.0)
    comparison = compare("the search", [Point(2.0, 0.9, 0.9)], [Point(2.0, 0.8, 0.8)], 0.1, 1000)
    device = DeviceFront(
        device="cpu", fingerprint={}, budget_ms=None, drift=1, host="", certificates={}, candidates=(near,),
        rejected=(), comparison=comparison,
    )  # fmt: skip
    show_front(Front(space="t", input_shape=(1, 8, 8), data="d", data_digest="", classes=("a",), devices=(device,)))
    assert "the search beat the hand-made family by 10.0 points" in capsys.readouterr().out.splitlines()[-1]


def test_given_settings_are_those_of_flags_and_files(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[SearchConfig] = []

    def run(checked: SearchConfig, *_: object) -> None:
        seen.append(checked)
        raise RunFailed("x")

    monkeypatch.setattr("nas.cli.search.run_search", run)
    (tmp_path / "s.toml").write_text('time = "1h30m"\nfinalists = 6\ndata = "digits"\n')
    assert cli("search", "--config", "s.toml", "--trials", 100, "--out", "run")[0] == 1
    given = {"time": 5400, "finalists": 6, "data": "digits", "trials": 100, "out": Path("run")}
    assert seen[0].given == given and seen[0].oracle == "auto"


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
    result = read_sealed(tmp_path / "net" / "result.json", 2, "result")
    assert (result["recipe"]["epochs"], result["seed"]) == (1, 0) and "torch" in result["versions"]
    assert cli(*arguments, "skip,k3_e1,skip,k3_e1,skip,k3_e1,skip,k3_e1")[1] == out
    assert (tmp_path / "net" / "model.onnx").read_bytes() == model
    err = refused(cli(*arguments, "skip,k3_e1,skip,skip,skip,k3_e1,skip,k3_e1"))
    assert "another network" in err
    assert (tmp_path / "net" / "model.onnx").read_bytes() == model


def test_derivation_trees_are_drawn_where_there_are_some(cli: Cli, tmp_path: Path) -> None:
    arguments = ("--arch", "route,im2col_k3s2,op,linear64,col2im", "--input", "1x8x8", "--svg", "tree.svg")
    (shown,) = rows(cli("spaces", "show", "einspace", *arguments, "--json"))
    assert str(shown["id"]) in (tmp_path / "tree.svg").read_text()
    assert cli("spaces", "show", "einspace", *arguments)[1].endswith("written: tree.svg\n")
    (tmp_path / "folder").mkdir()
    assert "--svg folder is a folder" in refused(cli("spaces", "show", "einspace", *arguments[:-1], "folder"))
    err = refused(cli("spaces", "show", "fbnet", "--arch", "fbnet_b", "--svg", "other.svg"))
    assert "has none, einspace has" in err and not (tmp_path / "other.svg").exists()
