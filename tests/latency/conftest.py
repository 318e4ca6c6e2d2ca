"""A board for the tests: an OpenSSH server on this machine."""

from collections.abc import Iterator

import pytest
import sshd
from measuring_jobs import COMPANY
from sshd import Board

from latency import host, measure


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    if sshd.MISSING:
        pytest.skip(sshd.MISSING)
    board = Board(tmp_path_factory.mktemp("board"))
    board.start()
    yield board
    board.stop()


@pytest.fixture
def board(server: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """The server, with nothing on it, known to the client, asked anew and not waited for."""
    monkeypatch.setenv("NAS_SSH_CONFIG", str(server.settings))
    monkeypatch.setattr(measure, "SWEEP_BYTES", 2**20)
    monkeypatch.setattr(measure, "company", lambda: COMPANY)
    monkeypatch.setattr(measure, "_RECONNECT_S", (0.05, 0.05, 0.05))
    host._described.cache_clear()
    server.write_settings()
    server.trust()
    yield server
    for path in server.models.glob("*"):
        path.unlink()
