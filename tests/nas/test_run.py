"""A whole search in miniature: complete, resumable, extendable; and (slow) killed in the middle of every stage."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from fakes import MadeUpDevice, Quiet, made_up_table, measuring_little, told

from latency import build
from latency.certificate import Certificate
from latency.table import LatencyTable
from nas.config import SearchConfig
from nas.delivery.finalists import FinalTraining, Trained
from nas.delivery.front import Front
from nas.folder import RunFolder, open_folder, read_record
from nas.jobs import RunFailed
from nas.reuse import inherit
from nas.run import run_search
from nas.search.distribution import LEAST_USED
from nas.search.record import evaluated_trials
from nas.search.study import open_study
from nas.training.oracle import SupernetOracle, Task
from nas.training.report import RankReport
from nas.training.train import Recipe, TrainingDiverged
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space

SPACE = FBNetSpace((1, 8, 8), 10)


@pytest.fixture(scope="module", autouse=True)
def short_measurements() -> Iterator[None]:
    with measuring_little():
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "cpu.json"
    made_up_table(SPACE).save(path)
    return path


def search(out: Path, table: Path | None, **changes: Any) -> tuple[Front, Quiet]:
    settings: dict[str, Any] = {
        "trials": 12, "supernet_steps": 60, "finalists": 2, "family": 1, "final_epochs": 2, "rank_networks": 2,
        "proxy_epochs": 1,
    }  # fmt: skip
    config = SearchConfig.checked(data="digits", out=out, table=table, **{**settings, **changes})
    console = Quiet()
    with open_folder(config, "nas search") as folder:
        front = run_search(config, folder, console)
        folder.save()
    return front, console


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Front]:
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, search(out, table)[0]


def test_front_is_on_disk(run: tuple[Path, Front]) -> None:
    out, front = run
    assert Front.load(out) == front
    assert front.space == SPACE.name and front.classes == tuple("0123456789")
    (device,) = front.devices
    assert device.device == "cpu" and len(device.candidates) >= 1
    assert 2 <= len(device.candidates) + len(device.rejected) <= 3
    for candidate in (*device.candidates, *device.rejected):
        architecture = SPACE.parse(candidate.architecture)
        assert candidate.predicted_ms == LatencyTable.load(out / "tables" / "cpu.json").predict_ms(
            SPACE.blocks(architecture)
        )
        assert candidate.macs == SPACE.macs(architecture) and candidate.measured_ms > 0


def test_family_stands_beside_the_result(run: tuple[Path, Front]) -> None:
    (device,) = run[1].devices
    finalists = (*device.candidates, *device.rejected)
    family = [c for c in finalists if c.origin == "baseline"]
    assert {SPACE.parse(c.architecture) for c in family} <= set(SPACE.baseline_family()) and family
    comparison = device.comparison
    assert comparison is not None and comparison.way == "the search"
    assert (comparison.networks, comparison.family) == (len(finalists) - len(family), len(family))
    assert comparison.high_ms == max(c.measured_ms for c in finalists) and 0 < comparison.error < 0.1


def test_every_finalist_has_a_certificate(run: tuple[Path, Front]) -> None:
    out, front = run
    (device,) = front.devices
    finalists = (*device.candidates, *device.rejected)
    assert device.certificates.keys() == {c.id for c in finalists}
    for candidate in finalists:
        certificate = Certificate.load(out / candidate.certificate)
        assert certificate == device.certificates[candidate.id]
        assert certificate.content((out / candidate.certificate).parent) == (out / candidate.onnx).read_bytes()
        assert (certificate.device, certificate.predicted_ms) == ("cpu", candidate.predicted_ms)
        off = candidate.measured_ms / candidate.predicted_ms - 1
        assert candidate.accurate_prediction is (abs(off) <= 0.05)


def test_delivered_networks_run(run: tuple[Path, Front]) -> None:
    out, front = run
    for candidate in front.devices[0].candidates:
        session = ort.InferenceSession(str(out / candidate.onnx), providers=["CPUExecutionProvider"])
        (scores,) = session.run(["scores"], {"input": np.zeros((1, 1, 8, 8), np.float32)})
        assert scores.shape == (1, 10) and np.isfinite(scores).all()


def test_study_and_record(run: tuple[Path, Front]) -> None:
    out, _ = run
    trials = told(out / "study.journal")
    assert len(trials) == 12 and {trial[1] for trial in trials} == {"COMPLETE"}
    record = read_record(out)
    assert list(record["stages"]) == ["data", "table", "oracle", "rank check", "search", "finalists", "front"]
    assert len(record["report"]) == 3
    assert record["data_digest"] == Front.load(out).data_digest
    assert [found["device"] for found in record["devices"]] == ["cpu"]


def files(out: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of what must not be made again."""
    kept = [*out.glob("models/*.onnx"), *out.glob("finalists/*"), *out.glob("measured/*"), out / "supernet.safetensors"]
    kept += [*out.glob("ranks.json"), *out.glob("distribution.json")]
    return {str(path.relative_to(out)): (path.read_bytes(), path.stat().st_mtime_ns) for path in kept}


def test_again_does_nothing_anew(run: tuple[Path, Front]) -> None:
    out, front = run
    before, trials = files(out), told(out / "study.journal")
    certificates = {path: path.read_bytes() for path in out.glob("models/*.certificate.json")}
    again, console = search(out, None)
    assert {path: path.read_bytes() for path in out.glob("models/*.certificate.json")} == certificates
    assert again == front and files(out) == before and told(out / "study.journal") == trials
    assert console.bars["training the supernet"][0] == console.bars["training the supernet"][-1]
    assert len(read_record(out)["commands"]) == 2


def test_more_trials_extend(run: tuple[Path, Front]) -> None:
    out, _ = run
    before, trials = files(out), told(out / "study.journal")
    search(out, None, trials=15)
    extended = told(out / "study.journal")
    assert extended[:12] == trials and len(extended) == 15
    after = files(out)
    assert all(after[name] == before[name] for name in before if not name.startswith("measured/"))


def test_fewer_finalists_drop_none_that_is_trained(run: tuple[Path, Front]) -> None:
    out, _ = run
    trained = {path.stem for path in (out / "finalists").glob("*.json")}
    (device,) = search(out, None, trials=15, finalists=1)[0].devices
    assert {c.id for c in (*device.candidates, *device.rejected)} == trained and len(trained) > 1


def test_same_seed_same_search_elsewhere(run: tuple[Path, Front], table: Path, tmp_path: Path) -> None:
    _, front = run
    other, _ = search(tmp_path / "other", table)
    assert told(tmp_path / "other" / "study.journal") == told(run[0] / "study.journal")[:12]

    def trained(found: Front) -> dict[str, tuple[float, str]]:
        device = found.devices[0]
        return {c.id: (c.val_accuracy, c.onnx_sha256) for c in (*device.candidates, *device.rejected)}

    assert trained(other) == trained(front)


def test_candidates_are_rated_by_what_ranks_best(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the combination is taken whatever it is worth; a later session and a later run go on with it."""

    def stop(*_: object) -> None:
        raise RunFailed("what comes after the search is not looked at")

    monkeypatch.setattr("nas.run._Run._choose", stop)
    monkeypatch.setattr("nas.run.shortlist", lambda *_: [])
    settings: dict[str, Any] = {"rank_networks": 4, "sampler": "random", "supernet_steps": 17}

    def searched(config: SearchConfig) -> tuple[RunFolder, Quiet]:
        console = Quiet()
        with open_folder(config, "nas search") as folder, pytest.raises(RunFailed, match="not looked at"):
            run_search(config, folder, console)
        return folder, console

    def configured(trials: int) -> SearchConfig:
        return SearchConfig.checked(
            data="digits", out=tmp_path / "run", table=table, trials=trials, proxy_epochs=1, **settings
        )

    with monkeypatch.context() as patch:
        patch.setattr("nas.training.report.FEWEST", 4)
        patch.setattr("nas.training.report.CLEARLY", 0.0)
        folder, console = searched(configured(4))
    said = "candidates are rated by the combination, which predicts the accuracy after 1 epochs from scratch"
    assert any(said in line for line in console.said)
    rating = RankReport.load(folder.ranks).rating
    plain = Task(SPACE, "digits", None, folder.cache, 0, folder.supernet, Recipe(1))
    oracle, inherited = SupernetOracle(replace(plain, rating=rating)), SupernetOracle(plain)

    searched(configured(6))
    given = {"out": tmp_path / "second", "table": table, "budget_ms": 0.4, "trials": 2}
    second, _ = searched(inherit(tmp_path / "run", given))
    assert second.ranks.read_bytes() == folder.ranks.read_bytes()
    for path in (folder.journal, second.journal):
        rated = evaluated_trials(open_study(path, ["predicted_ms cpu"]), SPACE)
        assert len(rated) >= 6
        assert all(trial.accuracy == oracle.rate(trial.architecture) for trial in rated)
        assert any(trial.accuracy != inherited.rate(trial.architecture) for trial in rated)


def test_halving(table: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "oracle": "train", "halving": True, "sampler": "random", "trials": 8, "proxy_epochs": 2, "finalists": 1,
        "final_epochs": 1,
    }  # fmt: skip
    _, console = search(tmp_path / "run", table, **settings)
    trials = told(tmp_path / "run" / "study.journal")
    assert len(trials) == 8 and all(attrs["epochs"] in (1, 2) for *_, attrs in trials)
    assert all((state == "COMPLETE") == (attrs["epochs"] == 2) for _, state, *_, attrs in trials)
    lines = read_record(tmp_path / "run")["report"]["successive halving"]
    assert lines["epochs trained"] == f"{sum(int(str(attrs['epochs'])) for *_, attrs in trials)} of 16"
    assert any(text.startswith("successive halving: candidates stopped early") for text in console.said)
    assert not (tmp_path / "run" / "rungs").exists()
    search(tmp_path / "run", None, **settings)
    assert told(tmp_path / "run" / "study.journal") == trials


def test_several_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables, predictions, files and certificates of each device; here the blocks' latencies are made up."""
    monkeypatch.setattr(build, "measure", MadeUpDevice(SPACE))
    settings: dict[str, Any] = {"oracle": "train", "trials": 4, "finalists": 1, "final_epochs": 1, "sampler": "random"}
    out, names = tmp_path / "run", ("cpu", "cpu:int8", "cpu:threads=2,batch=4")
    front, console = search(out, None, device=("cpu:threads=1", "cpu:int8", "cpu:batch=4,threads=2"), **settings)
    assert tuple(device.device for device in front.devices) == names
    assert [bar for bar in console.bars if "measuring" in bar] == [
        f"measuring blocks on {', '.join(names[:2])}, {names[2]}", f"measuring the finalists on {', '.join(names)}"
    ]  # fmt: skip
    finalists = [{c.id: c for c in (*d.candidates, *d.rejected)} for d in front.devices]
    assert finalists[0].keys() == finalists[1].keys() == finalists[2].keys()
    for by_id, ending in zip(finalists, ("", ".int8", ".b4"), strict=True):
        for identity, candidate in by_id.items():
            assert candidate.onnx == f"models/{identity}{ending}.onnx"
            assert candidate.certificate == f"models/{identity}{ending}.certificate.json"
            assert Certificate.load(out / candidate.certificate).sha256 == candidate.onnx_sha256
    assert all(c.val_accuracy == c.float_val_accuracy for c in (*finalists[0].values(), *finalists[2].values()))
    assert len(list((out / "tables").iterdir())) == len(list((out / "measured").iterdir())) == 3
    front.require_files(out)
    again, _ = search(out, None, device=names, **settings)
    assert again == front


@pytest.mark.parametrize(("sampler", "oracle"), [("dnas", "supernet"), ("fpnas", "train")])
def test_learned_samplers(sampler: str, oracle: str, table: Path, tmp_path: Path) -> None:
    out, budget_ms = tmp_path / "run", 0.2
    settings = {"sampler": sampler, "oracle": oracle, "budget_ms": budget_ms, "trials": 8, "rank_networks": 0}
    front, console = search(out, table, finalists=1, final_epochs=1, **settings)
    drawn = [trial for trial in told(out / "study.journal") if "origin" not in trial[4]]
    assert len(drawn) == 4 and len(console.bars["learning the distribution"]) > 1
    assert all(trial[4]["evaluated"] and trial[3] and trial[3][1] <= budget_ms for trial in drawn)
    assert not (out / "distribution.safetensors").exists()
    assert any(line.startswith("learned distribution: entropy") for line in console.said)
    assert "learned distribution" in read_record(out)["report"] and "distribution" in read_record(out)["stages"]
    before = files(out)
    again, console = search(out, table, finalists=1, final_epochs=1, **settings)
    assert again == front and "learning the distribution" not in console.bars
    assert files(out) == before


def test_widths_and_resolutions_are_learned_too(tmp_path: Path) -> None:
    space = FBNetV2Space((1, 20, 20), 10)
    made_up_table(space).save(tmp_path / "t.json")
    settings = {"space": "fbnetv2", "input": "20", "sampler": "dnas", "budget_ms": 0.5, "trials": 8, "rank_networks": 0}
    search(tmp_path / "run", tmp_path / "t.json", finalists=1, final_epochs=1, supernet_steps=1, **settings)
    drawn = [trial for trial in told(tmp_path / "run" / "study.journal") if "origin" not in trial[4]]
    assert len(drawn) == 4
    assert all(LEAST_USED * 0.5 <= float(str(attrs["predicted_ms cpu"])) <= 0.5 for *_, attrs in drawn)


def test_oracle_that_trains(table: Path, tmp_path: Path) -> None:
    front, _ = search(tmp_path / "run", table, oracle="train", trials=4, finalists=1, sampler="random", budget_ms=0.2)
    assert not (tmp_path / "run" / "supernet.safetensors").exists()
    assert front.devices[0].budget_ms == 0.2


def test_front_goes_without_finalists_that_fail(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"oracle": "train", "trials": 4, "finalists": 2, "family": 1, "sampler": "random"}
    tried: list[str] = []
    network: list[str] = []

    def first_diverges(work: FinalTraining, architecture: Architecture) -> Trained:
        tried.append(architecture.id)
        if not network or architecture.id in network:
            network.append(architecture.id)
            raise TrainingDiverged("the loss is no longer finite")
        return trained(work, architecture)

    trained = FinalTraining._trained
    monkeypatch.setattr(FinalTraining, "_trained", first_diverges)
    front, console = search(tmp_path / "run", table, **settings)
    told = f"{network[0]}: the loss is no longer finite"
    assert f"left out: {told}" in console.said
    (device,) = front.devices
    assert {c.id for c in (*device.candidates, *device.rejected)} == set(tried) - {network[0]} != set()
    assert read_record(tmp_path / "run")["report"]["finalists left out"] == dict([told.split(": ")])
    before = len(tried)
    assert search(tmp_path / "run", table, **settings)[0] == front and len(tried) == before

    def diverges(work: FinalTraining, architecture: Architecture) -> Trained:
        raise TrainingDiverged("the loss is no longer finite")

    monkeypatch.setattr(FinalTraining, "_trained", diverges)
    with pytest.raises(RunFailed, match="none of the finalists could be trained and exported"):
        search(tmp_path / "other", table, **settings)


def test_bad_table_stops_unless_accepted(table: Path, tmp_path: Path) -> None:
    found = LatencyTable.load(table)
    found.model_copy(update={"quality": found.quality.model_copy(update={"spearman": 0.1})}).save(tmp_path / "t.json")
    with pytest.raises(InputError, match="--accept-table"):
        search(tmp_path / "run", tmp_path / "t.json")
    assert not (tmp_path / "run").exists()
    accepted = {"accept_table": True, "oracle": "train", "trials": 2, "finalists": 1, "final_epochs": 1}
    search(tmp_path / "run", tmp_path / "t.json", **accepted)


def test_no_candidate_was_rated(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> float:
        raise RuntimeError("broken")

    monkeypatch.setattr("nas.training.oracle.TrainOracle.rate", broken)
    with pytest.raises(RunFailed, match="give more --trials"):
        search(tmp_path / "run", table, oracle="train", trials=3)


# The rest kills real processes.
SETTINGS = (
    "--data digits --trials 24 --supernet-steps 300 --finalists 3 --final-epochs 8 --rank-networks 2 --proxy-epochs 1"
    " --accept-table --label-smoothing 0.1 --mixup 0.2 --cutmix 0.5 --ema 0.9 --distil 0.3"
).split()
PROGRAM = [sys.executable, "-c", "from nas.cli import main; main()"]


def start(*arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(*arguments: str) -> None:
    with start(*arguments) as process:
        _, err = process.communicate()
        assert process.returncode == 0, err.decode()


def kill_when(evidence: Callable[[], str], *arguments: str) -> str:
    """Kill the command once ``evidence`` returns a text, and return the text."""
    with start(*arguments) as process:
        while not (found := evidence()):
            assert process.poll() is None, (process.communicate()[1] or b"").decode()
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    return found


def lines_of(folder: Path, pattern: str, least: int) -> Callable[[], str]:
    def evidence() -> str:
        for path in folder.glob(pattern):
            count = path.read_bytes().count(b"\n")
            if count >= least:
                return f"{count} lines in {path.name}"
        return ""

    return evidence


def epochs_of(folder: Path, pattern: str, epochs: int, least: int) -> Callable[[], str]:
    def evidence() -> str:
        for path in folder.glob(pattern):
            content = path.read_bytes()
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            done = int(header["__metadata__"]["epoch"])
            if least <= done < epochs:
                return f"epoch {done} of {epochs} in {path.name}"
        return ""

    return evidence


def finished_trials(folder: Path, least: int) -> Callable[[], str]:
    def evidence() -> str:
        path = folder / "study.journal"
        done = path.read_bytes().count(b'"values":[') if path.exists() else 0
        return f"{done} trials finished" if done >= least else ""

    return evidence


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_in_every_stage(tmp_path: Path) -> None:
    table = tmp_path / "cpu.json"
    build = ("table", "build", "--input", "1x8x8", "--out", str(table))
    print("\nkilled:", kill_when(lines_of(tmp_path, "cpu.json.partial.jsonl", 4), *build))
    finish(*build)
    assert LatencyTable.load(table).space == SPACE.name

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish("search", *SETTINGS, "--table", str(table), "--out", str(undisturbed))
    command = ("search", *SETTINGS, "--table", str(table), "--out", str(killed))
    epochs = -(-300 // 17)
    for evidence in (
        epochs_of(killed, "supernet.safetensors", epochs, 3),
        finished_trials(killed, 4),
        finished_trials(killed, 17),
        epochs_of(killed, "finalists/*.safetensors", 8, 2),
    ):
        print("killed:", kill_when(evidence, *command))
    finish(*command)
    assert told(killed / "study.journal") == told(undisturbed / "study.journal")
    fronts = [Front.load(out).devices[0] for out in (killed, undisturbed)]
    accuracies = [
        {c.id: (c.val_accuracy, c.test_accuracy, c.onnx_sha256) for c in (*front.candidates, *front.rejected)}
        for front in fronts
    ]
    assert accuracies[0] == accuracies[1] and len(accuracies[0]) >= 3
    print("the same", len(told(killed / "study.journal")), "trials and", len(accuracies[0]), "finalists")

    own = tmp_path / "own"
    command = ("search", *SETTINGS, "--out", str(own))
    print("killed:", kill_when(lines_of(own, "tables/*.partial.jsonl", 4), *command))
    finish(*command)
    assert LatencyTable.load(own / "tables" / "cpu.json").space == SPACE.name
    assert not list(own.glob("tables/*.partial*")) and len(told(own / "study.journal")) == 24
