"""Searches on recorded tables, through the command line: what they find, leave, resume and refuse."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import made_up_table, told

import nas.cli  # noqa: F401  (registers the commands)
from dashboards import board
from nas.cli.app import app
from nas.cli.errors import exit_code
from nas.config import SearchConfig
from nas.delivery.front import RecordedFront, load_front
from nas.folder import read_record
from nas.replay import read_tables
from nas.search.journal import TrialJournal
from nas.search.record import evaluated_trials
from nas.search.study import read_study
from search_spaces.nb201 import NB201Space, published
from search_spaces.space import SearchSpace, enumerate_architectures

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data" / "nas"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}")

SPACE = NB201Space((3, 32, 32), 10)
Ran = tuple[int, str, str]
Cli = Callable[..., Ran]


def tables(folder: Path) -> None:
    """Write accuracies (%) and two devices' latencies of every network: convolutions help and cost, with noise."""
    rng = np.random.default_rng(0)
    accuracy, latency = ["idx,arch,acc"], ["idx,fast,slow"]
    for idx, network in enumerate(enumerate_architectures(SPACE)):
        cell = [operation for _, operation in network.decisions]
        weight = sum({"nor_conv_3x3": 3.0, "nor_conv_1x1": 1.0}.get(operation, 0) for operation in cell)
        ms = 0.001 if set(cell) == {"none"} else 1 + weight + rng.random()
        accuracy.append(f"{idx},{published(network)},{10 + 4 * weight + rng.random():.3f}")
        latency.append(f"{idx},{ms:.4f},{3 * ms + rng.random():.4f}")
    (folder / "acc.csv").write_text("\n".join(accuracy) + "\n")
    (folder / "ms.csv").write_text("\n".join(latency) + "\n")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    tables(folder)
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, written: Path, tmp_path: Path) -> Cli:
    """Run ``nas`` in a folder with the tables; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a busy disk takes longer than the searches
    for name in ("acc.csv", "ms.csv"):
        (tmp_path / name).write_bytes((written / name).read_bytes())

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = exit_code(lambda: app([str(a) for a in arguments], standalone_mode=False))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def command(out: str = "run", **changes: Any) -> list[str]:
    given = {
        "space": "nb201", "oracle": "table:acc.csv#acc", "device": ["table:ms.csv#fast"], "trials": 24,
        "sampler": "random", "out": out, **changes,
    }  # fmt: skip
    flags = [
        (name.replace("_", "-"), each) for name, v in given.items() for each in (v if isinstance(v, list) else [v])
    ]
    return ["search", *[text for name, value in flags for text in (f"--{name}", str(value))]]


def refused(ran: Ran) -> str:
    code, _, err = ran
    *news, line = err.splitlines()
    assert code == 2 and line.startswith("nas: ") and all(each.endswith(" ...") for each in news), err
    return line


def brute_force(out: Path, number: int, metric: str, space: SearchSpace = SPACE) -> list[tuple[str, float, float]]:
    """Return what no other evaluated trial beats: id, accuracy, ms, by rising latency; the first of equal ones."""
    trials = evaluated_trials(read_study(out / "study.journal"), space)
    points = {t.architecture.id: (t.accuracy, t.ms[number]) for t in trials}
    for trial in read_study(out / "study.journal").trials:
        assert trial.user_attrs[metric] == trial.values[1 + number]
    front = [
        (name, accuracy, ms)
        for name, (accuracy, ms) in points.items()
        if not any(a >= accuracy and m <= ms and (a, m) != (accuracy, ms) for a, m in points.values())
    ]
    return sorted(front, key=lambda found: found[2])


def test_whole_replay(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli(*command(device=["table:ms.csv#fast", "table:ms.csv#slow"], budget_ms=9))
    assert code == 0 and err == "searching (random) ...\nchecking the accuracy predictor ...\n"
    assert "5,425 networks of nb201 are recorded; nothing is trained or measured" in out
    assert (
        "Front on fast, budget 9 ms" in out and "recorded %  recorded ms" in out and "pred" not in out.split("Front")[1]
    )
    front = RecordedFront.load(tmp_path / "run")
    assert load_front(tmp_path / "run") == front
    assert (front.space, front.input_shape, front.classes) == ("nb201", (3, 32, 32), 10)
    assert [device.device for device in front.devices] == ["fast", "slow"]
    for number, device in enumerate(front.devices):
        found = [(c.id, c.recorded_accuracy, c.ms) for c in device.candidates]
        assert found == brute_force(tmp_path / "run", number, f"recorded_ms {device.device}") and len(found) > 2
        for c in device.candidates:
            architecture = SPACE.parse(c.architecture)
            assert (c.ms_is, c.macs, c.params) == ("recorded", SPACE.macs(architecture), SPACE.params(architecture))
            assert c.ms <= 9
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "front.csv", "front.html", "front.json", "front.png", "front-2.png", "run.json", "run.lock", "study.journal"
    }  # fmt: skip
    record = read_record(tmp_path / "run")
    assert list(record["stages"]) == ["tables", "search", "front"]
    assert {"found on fast", "found on slow"} <= set(record["report"])
    page = (tmp_path / "run" / "front.html").read_text()
    assert "nothing was trained or measured here" in page and "recorded accuracy" in page
    assert "certificate" not in page and ".onnx" not in page


def test_values_are_those_of_the_rows(cli: Cli, tmp_path: Path) -> None:
    assert cli(*command())[0] == 0
    values = {}
    for line, other in zip(*(Path(name).read_text().splitlines()[1:] for name in ("acc.csv", "ms.csv")), strict=True):
        values[line.split(",")[1]] = float(line.split(",")[2]) / 100, float(other.split(",")[1])
    for c in RecordedFront.load(tmp_path / "run").devices[0].candidates:
        accuracy, ms = values[published(SPACE.parse(c.architecture))]
        assert (c.recorded_accuracy, c.ms) == (pytest.approx(accuracy), ms)


def test_front_and_dashboard_of_a_replay(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli(*command())[0] == 0
    (tmp_path / "run" / "front.html").unlink()
    code, out, _ = cli("front", "run")
    assert code == 0 and "Front on fast" in out and (tmp_path / "run" / "front.html").exists()
    code, out, _ = cli("front", "run", "--json")
    shown = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["id"] for row in shown] == [
        found[0] for found in brute_force(Path("run"), 0, "recorded_ms fast")
    ]
    assert all((row["device"], row["status"], row["ms_is"]) == ("fast", "front", "recorded") for row in shown)
    figures: dict[str, Any] = {}
    monkeypatch.setattr(board, "serve", lambda *arguments: figures.update(arguments[2]))
    assert cli("dashboard", "run")[0] == 0
    assert figures["fast"].layout.xaxis.title.text == "recorded latency (ms)"
    assert figures["fast"].layout.yaxis.title.text == "recorded accuracy (%)"


class Died(BaseException):
    """Stands for the death of the process."""


@pytest.mark.parametrize("sampler", ["random", "gp"])
def test_resumed_replay_makes_the_same_trials(
    sampler: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"sampler": sampler, "trials": 16}
    assert cli(*command("whole", **settings))[0] == 0
    append, calls = TrialJournal.append_logs, 0

    def dying(self: TrialJournal, logs: list[dict[str, Any]]) -> None:
        nonlocal calls
        calls += 1
        if calls == 200:
            raise Died
        append(self, logs)

    with monkeypatch.context() as patch:
        patch.setattr(TrialJournal, "append_logs", dying)
        with pytest.raises(Died):
            cli(*command("killed", **settings))
    assert not (tmp_path / "killed" / "front.json").exists()
    assert cli(*command("killed", **settings))[0] == 0
    journals = [tmp_path / name / "study.journal" for name in ("killed", "whole")]
    assert told(journals[0]) == told(journals[1])
    assert RecordedFront.load(tmp_path / "killed") == RecordedFront.load(tmp_path / "whole")
    assert cli(*command("killed", **{**settings, "trials": 18}))[0] == 0
    assert told(journals[0])[:16] == told(journals[1]) and len(told(journals[0])) == 18


def test_changed_table_or_setting_is_refused(cli: Cli, tmp_path: Path) -> None:
    assert cli(*command())[0] == 0
    assert cli(*command(oracle=f"table:{tmp_path}/acc.csv#acc"))[0] == 0
    before = told(tmp_path / "run" / "study.journal")
    assert "--device was table:" in refused(cli(*command(device=["table:ms.csv#slow"])))
    (tmp_path / "ms.csv").write_text((tmp_path / "ms.csv").read_text() + "\n")
    assert "--device table:ms.csv#fast has changed since run was begun" in refused(cli(*command()))
    (tmp_path / "acc.csv").write_text((tmp_path / "acc.csv").read_text() + "\n")
    assert "--oracle table:acc.csv#acc has changed since run was begun" in refused(cli(*command()))
    assert told(tmp_path / "run" / "study.journal") == before


def test_going_on_from_a_replay(cli: Cli, tmp_path: Path) -> None:
    assert cli(*command(budget_ms=9))[0] == 0
    journal = (tmp_path / "run" / "study.journal").read_bytes()
    go_on = ["search", "--from", "run", "--device", "table:ms.csv#slow", "--out", "second"]
    code, out, _ = cli(*go_on, "--budget-ms", 20, "--trials", 5)
    assert (
        code == 0
        and "Front on slow, budget 20 ms" in out
        and (tmp_path / "run" / "study.journal").read_bytes() == journal
    )
    known = evaluated_trials(read_study(tmp_path / "run" / "study.journal"), SPACE)
    found = evaluated_trials(read_study(tmp_path / "second" / "study.journal"), SPACE)
    assert [t.accuracy for t in found[: len(known)]] == [t.accuracy for t in known]
    within = [t for t in found[: len(known)] if t.feasible]
    assert f"reused from run: {len(known)} rated candidates, {len(within)} within the budget" in out
    assert 0 < len(within) < len(known) and [t.feasible for t in found] == [t.ms[0] <= 20 for t in found]
    front = RecordedFront.load(tmp_path / "second").devices[0].candidates
    assert [(c.id, c.ms) for c in front] == [
        (i, ms) for i, _, ms in brute_force(Path("second"), 0, "recorded_ms slow") if ms <= 20
    ]
    trials = told(tmp_path / "second" / "study.journal")
    assert len(trials) == len(known) + 5
    assert cli(*go_on, "--budget-ms", 20, "--trials", 7)[0] == 0
    assert told(tmp_path / "second" / "study.journal")[: len(trials)] == trials
    (tmp_path / "from.toml").write_text('from = "run"\ndevice = "table:ms.csv#slow"\ntrials = 0\n')
    assert cli("search", "--config", "from.toml", "--out", "third")[0] == 0
    assert len(told(tmp_path / "third" / "study.journal")) == len(known)
    assert "--space fbnet: --from run takes over nb201" in refused(cli(*go_on[:-1], "fourth", "--space", "fbnet"))
    assert "none holds no run" in refused(cli("search", "--from", "none", "--out", "fourth"))
    assert "--device cpu is measured" in refused(cli("search", "--from", "run", "--device", "cpu", "--out", "fourth"))
    (tmp_path / "acc.csv").write_text((tmp_path / "acc.csv").read_text() + "\n")
    assert "has changed since run was begun; search without --from" in refused(cli(*go_on[:-1], "fourth"))
    assert not (tmp_path / "fourth").exists()


def test_predicting_tables(cli: Cli, tmp_path: Path) -> None:
    networks = list(enumerate_architectures(SPACE))[::60]
    timings = ["architecture,ms", *[f"{published(a)},{1 + 1e-7 * SPACE.macs(a)}" for a in networks]]
    (tmp_path / "phone.csv").write_text("\n".join(timings) + "\n")
    assert cli("table", "fit", "phone.csv", "--space", "nb201", "--out", "phone.json")[0] == 0
    made_up_table(SPACE, "board").save(tmp_path / "board.json")
    devices = ["table:phone.json", "table:board.json", "table:ms.csv#slow"]
    code, out, _ = cli(*command(device=devices, trials=6))
    assert code == 0 and "predicted ms" in out and "Front on phone" in out
    front = RecordedFront.load(tmp_path / "run")
    assert [(d.device, d.ms_is) for d in front.devices] == [
        ("phone", "predicted"), ("board", "predicted"), ("slow", "recorded")
    ]  # fmt: skip
    first = front.devices[1].candidates[0]
    assert first.ms == made_up_table(SPACE, "board").predict_ms(SPACE.blocks(SPACE.parse(first.architecture)))
    table = made_up_table(NB201Space((3, 16, 16), 10))
    table.save(tmp_path / "small.json")
    err = refused(cli(*command("other", device=[*devices, "table:small.json"])))
    assert "small.json is for another input or other classes" in err
    quality = table.quality.model_copy(update={"spearman": 0.1})
    table.model_copy(update={"quality": quality}).save(tmp_path / "bad.json")
    assert "--accept-table" in refused(cli(*command("other", device=["table:bad.json"])))
    assert cli(*command("other", device=["table:bad.json"], trials=2), "--accept-table")[0] == 0


def test_network_that_the_table_lacks(cli: Cli, tmp_path: Path) -> None:
    lines = (tmp_path / "acc.csv").read_text().splitlines()
    (tmp_path / "acc.csv").write_text("\n".join(lines[:1000]) + "\n")
    lines = (tmp_path / "ms.csv").read_text().splitlines()
    (tmp_path / "ms.csv").write_text("\n".join(lines[:1000]) + "\n")
    assert "has no row for nb201:" in refused(cli(*command()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "digits"}, "--data digits: a search on recorded tables takes none"),
        ({"input": "32"}, "--input 32: a search on recorded tables takes none"),
        ({"table": "t.json"}, "--table t.json: a search on recorded tables takes none"),
        (
            {"sampler": "dnas", "budget_ms": 9},
            "--sampler dnas trains a supernet, which --oracle table:acc.csv#acc does",
        ),
        ({"sampler": "fpnas"}, "--sampler fpnas trains a supernet"),
        (
            {"oracle": "train", "data": "digits"},
            "--device table:ms.csv#fast is recorded: give --oracle table:FILE#COLUMN",
        ),
        ({"device": ["cpu"]}, "--device cpu is measured, --oracle table:acc.csv#acc recorded: give --device table:"),
        ({"device": ["table:ms.csv#fast", "cpu"]}, "--device cpu is measured"),
        ({"device": ["table:ms.csv#fast"] * 2}, "--device: each device may be given once"),
        ({"device": ["table:ms.csv#fast", "table:./ms.csv#fast"]}, "two devices are called 'fast'"),
        ({"oracle": "table:acc.csv"}, "table:acc.csv names no column: give table:FILE#COLUMN"),
        ({"oracle": "table:none.csv#acc"}, "none.csv does not exist"),
        ({"oracle": "table:acc.json"}, "acc.json is no CSV file"),
        ({"oracle": "table:acc.csv#ac"}, "unknown column of acc.csv: 'ac'; did you mean 'acc'?"),
        ({"oracle": "table:ms.csv#fast"}, "--oracle table:ms.csv#fast: the file has no column architecture or arch"),
        ({"device": ["table:ms.csv#quick"]}, "unknown column of ms.csv: 'quick'; known: fast, slow"),
        ({"device": ["table:none.json"]}, "none.json does not exist"),
        ({"space": "fbnet"}, "acc.csv, line 2: "),
        ({"space": "nb202"}, "unknown space 'nb202'; did you mean 'nb201'?"),
        ({"budget_ms": 0.0001}, "--budget-ms 0.0001 is below the fastest network of nb201 on fast: 0.001 ms recorded"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_mistakes(changes: dict[str, Any], said: str, cli: Cli, tmp_path: Path) -> None:
    assert said in refused(cli(*command(**changes)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acc.csv", "ms.csv"]


@needs_data
def test_real_tables(cli: Cli, tmp_path: Path) -> None:
    oracle = f"table:{DATA}/nb201_accuracy.csv.gz#cifar10_test_acc"
    devices = [f"table:{DATA}/nb201_latency_ms.csv.gz#{name}" for name in ("gold_6226", "pixel3")]
    assert cli(*command(oracle=oracle, device=devices, trials=60))[0] == 0
    for number, device in enumerate(RecordedFront.load(tmp_path / "run").devices):
        found = [(c.id, c.recorded_accuracy, c.ms) for c in device.candidates]
        assert found == brute_force(tmp_path / "run", number, f"recorded_ms {device.device}", SPACE.as_recorded())
    config = SearchConfig.checked(out=Path("x"), space="nb201", oracle=oracle, device=devices)
    read = read_tables(config)
    assert len(read.accuracy.values) == 15625
    best = read.accuracy.of(SPACE.named()["cifar10_best"])
    assert best == max(read.accuracy.values.values()) and round(best, 4) == 0.9437
    assert 0 < min(map(read.targets[1].predict_ms, read.accuracy.values)) < 0.01
