"""The measuring program: rounds that depend on seed and number alone, plain refusals, and no life after its client."""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measuring_jobs import MODELS, job, matmul, onnx_file, write_models
from onnx import TensorProto

from latency import runner
from latency.runner import QUANTITIES, Refused, describe, measure

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    yield
    gc.enable()  # which measuring switches off


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_models(tmp_path, MODELS)
    return tmp_path


def rows_of(folder: Path, request: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    measure(request, folder, rows.append)
    return rows


def test_one_sample_of_every_model_per_round(models: Path) -> None:
    rows = rows_of(models, job())
    assert [row["round"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert list(row) == ["round", *QUANTITIES]
        assert all(len(row[quantity]) == 3 and min(row[quantity]) > 0 for quantity in QUANTITIES)
        assert all(cpu <= 1.01 * wall for cpu, wall in zip(row["cold_cpu_ms"], row["cold_wall_ms"], strict=True))
    small, _, large = np.min([row["steady_cpu_ms"] for row in rows], axis=0)
    assert small < large


def test_cold_is_the_first_call_and_steady_the_last(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1, 100))
    monkeypatch.setattr(runner, "_timed", lambda run: (float(t := next(times)), t + 0.5))
    (row,) = rows_of(models, job(["small"], calls=[4], end_round=1))
    assert row == {
        "round": 0, "cold_cpu_ms": [1], "cold_wall_ms": [1.5], "steady_cpu_ms": [4], "steady_wall_ms": [4.5],
    }  # fmt: skip
    (row,) = rows_of(models, job(["small"], calls=[1], end_round=1))
    assert row["steady_cpu_ms"] == row["cold_cpu_ms"] == [5]


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the models by notes of what was loaded and run."""
    notes: list[str] = []

    def load(job: dict[str, Any], folder: Path, name: str) -> Callable[[], object]:
        notes.append(f"load {name}")
        return lambda: notes.append(f"run {name}")

    monkeypatch.setattr(runner, "_load", load)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # of all that the tests hold: slow
    return notes


def order(notes: list[str], request: dict[str, Any]) -> list[list[str]]:
    """Return what happened in each round, without the company's calls."""
    rounds: list[list[str]] = []
    notes.clear()
    done = 0

    def finished(row: Row) -> None:
        nonlocal done
        rounds.append([note for note in notes[done:] if not note.endswith("company")])
        done = len(notes)

    measure(request, Path(), finished)
    return rounds


def test_a_round_depends_on_the_seed_and_its_number_alone(happened: list[str]) -> None:
    request = job("abcdefgh", company="company", end_round=6)
    rounds = order(happened, request)
    assert rounds == order(happened, request)
    loads, runs = rounds[0][:8], [rounds[0][8:], *rounds[1:]]
    assert sorted(loads) == [f"load {name}" for name in "abcdefgh"]
    assert len({tuple(one) for one in runs}) == 6
    assert all(sorted(one) == sorted(2 * [f"run {name}" for name in "abcdefgh"]) for one in runs)
    for first in (1, 5):
        resumed = order(happened, {**request, "first_round": first})
        assert [resumed[0][8:], *resumed[1:]] == runs[first:] and resumed[0][:8] != loads
    assert not {tuple(one) for one in order(happened, {**request, "seed": 1})} & {tuple(one) for one in runs}


def test_other_work_comes_before_every_cold_call(happened: list[str]) -> None:
    order(happened, job("ab", company="company", end_round=1))
    runs = [note.removeprefix("run ") for note in happened if note.startswith("run")]
    assert sorted(map(tuple, (runs[:3], runs[3:]))) == [("company", name, name) for name in "ab"]


def test_inputs_of_other_types(tmp_path: Path) -> None:
    table = np.ones((1, 4), np.float32)  # only 0 is an index of it
    models = {
        "int64": onnx_file("Gather", [2, 3], TensorProto.INT64, table, at=1),
        "int32": onnx_file("Gather", [2], TensorProto.INT32, table, at=1),
        "bool": onnx_file("Where", [4], TensorProto.BOOL, table, -table),
        "half": onnx_file("Identity", [2, 3], TensorProto.FLOAT16),
        "scalar": onnx_file("Relu", [], TensorProto.FLOAT),
    }
    write_models(tmp_path, models)
    assert len(rows_of(tmp_path, job(models))) == 3


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (matmul(8, rows="batch"), "dynamic shape", r"an input has the shape \['batch', 8\]: export it with fixed"),
        (onnx_file("Relu", [0, 3], TensorProto.FLOAT), "dynamic shape", r"an input has the shape \[0, 3\]"),
        (onnx_file("Identity", [2], TensorProto.STRING), "bad model", "the element type 'string'"),
        (b"no model", "bad model", "INVALID_PROTOBUF"),
        (b"", "bad model", "model"),
        (onnx_file("Frobnicate", [2], TensorProto.FLOAT), "bad model", "Frobnicate"),
    ],
)
def test_models_that_cannot_be_measured(content: bytes, kind: str, message: str, models: Path) -> None:
    write_models(models, {"odd": content})
    with pytest.raises(Refused, match=message) as caught:
        rows_of(models, job([*MODELS, "odd"]))
    found, text = caught.value.args
    assert found == kind and text.startswith("odd: ") and "\n" not in text and str(models) not in text


def test_describe() -> None:
    facts = describe("onnxruntime", "CPUExecutionProvider", "fp32")
    assert facts["cores"] == str(os.cpu_count()) and facts["cpu"] == runner.cpu_model() != ""
    assert facts["runtime"].startswith("onnxruntime 1.")
    assert all(isinstance(value, str) for value in facts.values())


def test_what_is_not_installed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ask in (
        lambda: describe("onnxruntime", "NoSuchExecutionProvider", "fp32"),
        lambda: rows_of(models, job(provider="NoSuchExecutionProvider")),
    ):
        with pytest.raises(Refused, match=r"no NoSuchExecutionProvider; it has .*CPUExecutionProvider"):
            ask()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Refused, match=r"cannot import onnxruntime .*; install it for that Python"):
        describe("onnxruntime", "CPUExecutionProvider", "fp32")


class Program:
    """The measuring program in a process of its own, and its answers."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, runner.__file__, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def write(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def ask(self, **request: Any) -> None:
        self.write(json.dumps(request).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout
        while not (line := self.process.stdout.readline()).strip():
            assert line, "the program ended"
        return dict(json.loads(line))


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    started = Program(tmp_path / "models")
    with started.process:
        yield started
        started.process.kill()


def put(program: Program, models: dict[str, bytes]) -> None:
    for name, content in models.items():
        program.ask(ask="put", name=name, bytes=len(content))
        program.write(content)


def left(folder: Path) -> set[str]:
    return {path.name for path in (folder / "models").iterdir()}


def test_files_stay_until_they_are_removed(program: Program, tmp_path: Path) -> None:
    program.ask(ask="missing", names=list(MODELS))
    assert program.answer() == {"missing": list(MODELS)}
    put(program, MODELS)
    program.ask(ask="missing", names=[*MODELS, "other"])
    assert program.answer() == {"missing": ["other"]}
    for first in (0, 2):
        program.ask(ask="measure", **job(first_round=first, end_round=first + 2))
        assert [program.answer().get("round") for _ in range(3)] == [first, first + 1, None]
    assert left(tmp_path) == set(MODELS)
    program.ask(ask="remove", names=[*MODELS, "other"])
    assert program.answer() == {"removed": 4} and left(tmp_path) == set()


def test_after_a_refusal_it_serves_on(program: Program) -> None:
    put(program, {"broken": b"no model"})
    program.ask(ask="measure", **job(["broken"]))
    assert program.answer()["error"] == "bad model"
    program.ask(ask="describe", engine="onnxruntime", provider="NoSuch", precision="fp32")
    assert program.answer()["error"] == "no provider"
    program.ask(ask="describe", engine="onnxruntime")
    assert program.answer() == {"error": "crashed", "text": "KeyError: 'provider'"}
    program.ask(ask="missing", names=[])
    assert program.answer() == {"missing": []}


def test_files_that_cannot_be_written_are_told(program: Program, tmp_path: Path) -> None:
    program.ask(ask="missing", names=[])
    program.answer()
    (tmp_path / "models").rmdir()
    put(program, {"a": b"x"})
    assert program.answer() == {
        "error": "no room", "text": f"cannot write {tmp_path / 'models'}: No such file or directory"
    }  # fmt: skip


def test_forgotten_files_are_deleted_after_a_day(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    ages_h = {"old.onnx": 25, "old.onnx.part": 25, "recent.onnx": 23, "not-ours": 1000}
    for name, age_h in ages_h.items():
        (tmp_path / "models" / name).write_bytes(b"")
        os.utime(tmp_path / "models" / name, (time.time() - 3600 * age_h,) * 2)
    program = Program(tmp_path / "models")
    with program.process:
        program.ask(ask="missing", names=list(ages_h))
        assert program.answer() == {"missing": ["old.onnx", "old.onnx.part"]}


@pytest.mark.parametrize("ending", ["closed", "cut off", "garbage"])
def test_ends_with_its_input_in_the_middle_of_a_job(ending: str, program: Program, tmp_path: Path) -> None:
    put(program, MODELS)
    program.ask(ask="measure", **job(end_round=10**6))
    assert program.answer()["round"] == 0
    if ending == "cut off":
        program.ask(ask="put", name="half", bytes=1000)
        program.write(b"x" * 500)
    if ending == "garbage":
        program.write(b"what?\n")
    else:
        assert program.process.stdin
        program.process.stdin.close()
    assert program.process.stdout
    program.process.stdout.read()
    assert program.process.wait(timeout=2) == 3
    assert left(tmp_path) == set(MODELS)  # for the client that comes back
