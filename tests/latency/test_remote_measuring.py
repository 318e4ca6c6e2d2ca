"""Measuring on a board: what it gives this machine gives, and a broken connection costs a round at most."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measuring_jobs import MODELS, matmul
from sshd import Board, wait_until

from latency import measure as measuring
from latency.device import Device
from latency.host import Connection, ConnectionLost, MeasuringFailed, fingerprint
from latency.measure import Protocol, measure
from latency.runner import QUANTITIES
from search_spaces.errors import InputError

PROTOCOL = Protocol(rounds=4, calls=2, most_rounds=4)
SLOW = 500
"""So many calls in a row that a round takes long enough to be interrupted."""


def kept(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()[1:]]


def test_a_board_gives_what_this_machine_gives(board: Board) -> None:
    device = Device.parse(board.device())
    here, there = fingerprint(Device()), fingerprint(device)
    assert there == {**here, "device": device.name}
    samples = measure(device, MODELS, PROTOCOL)
    assert tuple(samples) == QUANTITIES
    for by_name in samples.values():
        assert list(by_name) == list(MODELS)
        assert all(values.shape == (4,) and (values > 0).all() for values in by_name.values())
    assert list(board.models.iterdir()) == []
    wait_until(lambda: board.programs() == [])


def test_a_board_needs_numpy_and_onnxruntime_alone(board: Board) -> None:
    absent = "torch onnx pandas pydantic latency search_spaces"
    python = board.python(lacks=absent)
    for package in absent.split():
        assert subprocess.run([python, "-c", f"import {package}"], cwd=board.home, capture_output=True).returncode
    samples = measure(Device.parse(board.device(python=str(python))), MODELS, PROTOCOL)
    assert samples["cold_cpu_ms"]["large"].shape == (4,)


class Break:
    """A ``progress`` that does something to the board after some rounds, once."""

    def __init__(self, after: int, action: Callable[[], object]) -> None:
        self.told: list[int] = []
        self._after = after
        self._action = action

    def __call__(self, done: int, total: int) -> None:
        if done == self._after and done not in self.told:
            self._action()
        self.told.append(done)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the first round of every job that a program is asked."""
    found: list[int] = []
    rounds = Connection.rounds
    monkeypatch.setattr(
        Connection, "rounds", lambda self, job: (found.append(job["first_round"]), rounds(self, job))[1]
    )
    return found


def arrived(board: Board) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in board.models.iterdir()}


def test_a_cut_connection_is_made_again(board: Board, starts: list[int], tmp_path: Path) -> None:
    seen: list[dict[str, int]] = []
    cut = Break(2, lambda: (seen.append(arrived(board)), board.cut()))
    look = Break(6, lambda: seen.append(arrived(board)))

    def progress(done: int, total: int) -> None:
        cut(done, total)
        look(done, total)

    protocol = Protocol(rounds=8, calls=SLOW, most_rounds=8)
    samples = measure(Device.parse(board.device()), MODELS, protocol, tmp_path / "journal", progress)
    assert starts == [0, 2, 5] and cut.told == list(range(9))
    rows = kept(tmp_path / "journal")
    assert [row["round"] for row in rows] == list(range(8))
    expected = measuring._samples(rows, list(MODELS))
    assert all(np.array_equal(samples[q][name], expected[q][name]) for q in QUANTITIES for name in MODELS)
    assert seen[0] == seen[1] and len(seen[0]) == 12 + 1  # no model travelled twice
    assert list(board.models.iterdir()) == []


def test_a_server_gone_for_good(board: Board, starts: list[int], tmp_path: Path) -> None:
    device, journal = Device.parse(board.device()), tmp_path / "journal"
    protocol = Protocol(rounds=4, calls=SLOW, most_rounds=4)
    message = r"no SSH server answers there; .*; 2 rounds are kept: repeat the command to go on"
    try:
        with pytest.raises(MeasuringFailed, match=message) as caught:
            measure(device, MODELS, protocol, journal, Break(2, board.stop))
    finally:
        board.start()
    assert not isinstance(caught.value, ConnectionLost) and "\n" not in str(caught.value)
    first = kept(journal)
    assert [row["round"] for row in first] == [0, 1] and starts == [0]
    progress = Break(0, lambda: pytest.fail("began anew"))
    measure(device, MODELS, protocol, journal, progress)
    assert progress.told == [2, 3, 4] and kept(journal)[:2] == first
    assert [row["round"] for row in kept(journal)] == [0, 1, 2, 3]


def test_a_program_killed_on_the_board_is_started_again(board: Board, starts: list[int], tmp_path: Path) -> None:
    def kill() -> None:
        for pid in board.programs():
            os.kill(pid, signal.SIGKILL)

    protocol = Protocol(rounds=4, calls=SLOW, most_rounds=4)
    measure(Device.parse(board.device()), MODELS, protocol, tmp_path / "journal", Break(2, kill))
    assert [row["round"] for row in kept(tmp_path / "journal")] == [0, 1, 2, 3] and starts == [0, 2]


@pytest.mark.slow
def test_a_stalled_server_is_noticed(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_RECONNECT_S", ())
    protocol = Protocol(rounds=20, calls=SLOW, most_rounds=20)
    with contextlib.ExitStack() as stack:
        stall = Break(2, lambda: stack.enter_context(board.stalled()))
        with pytest.raises(MeasuringFailed, match=r"it stopped answering; check .*; \d+ rounds are kept") as caught:
            measure(Device.parse(board.device()), MODELS, protocol, tmp_path / "journal", stall)
    assert "\n" not in str(caught.value)


def test_models_that_the_board_refuses(board: Board) -> None:
    device = Device.parse(board.device())
    for name, content, message in (
        ("broken", b"no model", "Protobuf parsing failed"),
        ("odd", matmul(8, "n"), "shape"),
    ):
        with pytest.raises(InputError, match=rf": {name}: .*{message}") as caught:
            measure(device, {**MODELS, name: content}, PROTOCOL)
        assert "\n" not in str(caught.value) and list(board.models.iterdir()) == []
