"""The machine of a device, over pipes and over SSH: what goes wrong has a name, and nothing is left behind."""

import json
import os
import pwd
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sshd
from measuring_jobs import MODELS, job, write_models
from sshd import Board, wait_until

from latency import runner
from latency.device import Device
from latency.host import Connection, ConnectionLost, MeasuringFailed, fingerprint
from search_spaces.errors import InputError


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text and len(text) < 400
    return text


def refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        fingerprint(Device.parse(name))
    assert one_line(caught.value).startswith(f"device {Device.parse(name).name}: ")


# --- what a board needs and what it gives


def test_rounds_arrive_while_the_job_runs(board: Board, tmp_path: Path) -> None:
    with Connection(Device.parse(board.device()), tmp_path) as connection:
        connection.send(MODELS)
        rounds = connection.rounds(job(end_round=10**6))  # which would take hours
        assert [next(rounds)["round"] for _ in range(3)] == [0, 1, 2]


def test_files_are_sent_once(board: Board, tmp_path: Path) -> None:
    device = Device.parse(board.device())

    def sent() -> dict[str, int]:
        with Connection(device, tmp_path) as connection:
            connection.send(MODELS)
            connection.ask({"ask": "missing", "names": []})  # they have arrived
        return {path.name: path.stat().st_ino for path in board.models.iterdir()}

    first = sent()
    assert set(first) == set(MODELS) and sent() == first
    assert all((board.models / name).read_bytes() == content for name, content in MODELS.items())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "greeting", ["echo Welcome to the board", "printf 'no line feed'", "echo '{not JSON'; echo 42"]
)
def test_a_greeting_of_the_shell_does_not_disturb(greeting: str, board: Board) -> None:
    (board.home / ".bashrc").write_text(f"{greeting}\n")
    python = board.python(name="greeting", before=greeting)  # where the user's shell is another one
    try:
        assert fingerprint(Device.parse(board.device(python=str(python))))["cores"] == str(os.cpu_count())
    finally:
        (board.home / ".bashrc").unlink()


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'say "x"', "x; touch spoilt", "$(touch spoilt)", "`touch spoilt`", "*"]
)
def test_odd_paths_do_not_reach_the_shell(name: str, board: Board) -> None:
    python = board.python(name=name)
    assert fingerprint(Device.parse(board.device(python=str(python))))["cores"] == str(os.cpu_count())
    assert not list(board.home.rglob("spoilt")) and not Path("~/spoilt").expanduser().exists()


def test_paths_begin_in_the_home_folder(board: Board) -> None:
    account = pwd.getpwuid(os.getuid())
    python = os.path.relpath(board.python(), account.pw_dir)
    for text in (python, f"~/{python}"):
        assert fingerprint(Device.parse(board.device(python=text)))["cores"] == str(os.cpu_count())


# --- what keeps a board from being asked at all


def test_no_server_at_the_port(board: Board) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        refused(f"ssh://127.0.0.1:{port}/cpu", r"no SSH server answers there; check the port.*\(.*Connection refused\)")


def test_unknown_host_name(board: Board) -> None:
    refused("ssh://nowhere.invalid/cpu", r"there is no such host; check its name \(.*Could not resolve hostname")


def test_wrong_key(board: Board) -> None:
    board.write_settings(key=board.make_stranger_key())
    user, port = board.user, board.port
    refused(board.device(), rf"the key was refused; check that `ssh -p {port} {user}@127\.0\.0\.1` works .*\(publickey")


def test_unknown_host_key(board: Board) -> None:
    board.distrust()
    refused(board.device(), r"its host key is unknown; connect once with `ssh -p \d+ .*127.0.0.1`")


def test_changed_host_key(board: Board) -> None:
    board.renew_host_key()
    board.stop()
    board.start()
    refused(
        board.device(),
        r"its host key is not the one of before; `ssh -p \d+ .*` tells how to accept it where that is right",
    )


def test_a_host_of_the_users_configuration(board: Board) -> None:
    python = board.python()
    assert fingerprint(Device.parse(f"ssh://board/cpu:python={python}"))["cores"] == str(os.cpu_count())
    board.write_settings(port=1)
    refused(f"ssh://board/cpu:threads=2,python={python}", "no SSH server answers there")


@pytest.mark.parametrize("python", ["/no/such/python3", "no-such-python3", "/etc/passwd"])
def test_no_python_there(python: str, board: Board) -> None:
    refused(
        board.device(python=python),
        rf"{python} cannot be run there \(.+\); name another one as in ssh://.*/cpu:python=PATH",
    )


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("onnxruntime", r"cannot import onnxruntime \(No module named 'onnxruntime'\); install it for that Python"),
        ("numpy", r"ended early: ModuleNotFoundError: No module named 'numpy'; install what .* lacks there"),
    ],
)
def test_python_without_a_package(package: str, message: str, board: Board) -> None:
    refused(board.device(python=str(board.python(lacks=package))), message)


def test_python_that_is_too_old(board: Board) -> None:
    old = "import sys; sys.version_info = (3, 9); sys.version = '3.9.2 (default)'; exec(sys.argv[2])"
    python = board.python(name="old", before=f'exec {sys.executable} -c {shlex.quote(old)} "$@"')
    refused(board.device(python=str(python)), r"ended early: Python 3\.10 or newer is needed, it is 3\.9\.2")


def test_provider_that_is_not_installed(board: Board) -> None:
    refused(board.device("rocm"), r"no ROCMExecutionProvider; it has .*CPUExecutionProvider")
    refused("rocm", r"no ROCMExecutionProvider; it has .*CPUExecutionProvider")


def test_home_folder_that_cannot_be_written(board: Board) -> None:
    python = board.python(name="homeless", before="export HOME=/dev/null")
    refused(board.device(python=str(python)), r"ended early: NotADirectoryError: .*/dev/null/")


def test_no_ssh_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("ssh://board/cpu", "there is no ssh program on this machine")


def test_a_board_without_room(board: Board, tmp_path: Path) -> None:
    with Connection(Device.parse(board.device()), tmp_path) as connection:
        connection.ask({"ask": "missing", "names": []})
        board.models.rename(board.models.with_name("moved"))
        connection.send(MODELS)
        with pytest.raises(InputError, match=r"cannot write .*/nas-measure: No such file or directory"):
            list(connection.rounds(job()))
    board.models.with_name("moved").rmdir()


# --- whoever asked may die

CLIENT = """
import json, sys
from pathlib import Path
from latency.device import Device
from latency.host import Connection
with Connection(Device.parse(sys.argv[1]), Path(sys.argv[2])) as connection:
    connection.send({path.name: path.read_bytes() for path in Path(sys.argv[2]).iterdir()})
    for row in connection.rounds(json.loads(sys.argv[3])):
        print(row["round"], flush=True)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def orphans(name: str, folder: Path, board: Board | None) -> None:
    """Kill a client in the middle of its job; what it started must be gone at once."""
    folder.mkdir()
    write_models(folder, MODELS)
    command = [sys.executable, "-c", CLIENT, name, str(folder), json.dumps(job(end_round=10**6))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(runner.__file__).parents[1]) as client:
        assert client.stdout and client.stdout.readline() == b"0\n"
        started = [*sshd.descendants(client.pid), *(board.programs() if board else [])]
        assert len(started) >= (2 if board else 1)
        client.send_signal(signal.SIGKILL)
        wait_until(lambda: all(gone(pid) for pid in started), seconds=2)


def test_no_program_outlives_a_killed_client_over_ssh(board: Board, tmp_path: Path) -> None:
    orphans(board.device(), tmp_path / "models", board)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are watched in /proc")
def test_no_program_outlives_a_killed_client(tmp_path: Path) -> None:
    orphans("cpu", tmp_path / "models", None)


# --- programs that die, on this machine


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; input(); sys.exit('out of memory')", "the measuring program ended early: out of memory"),
        ("input()", "the measuring program ended early: without a message"),
        ("import os, signal; input(); os.kill(os.getpid(), signal.SIGKILL)", "ended early: without a message"),
        ("import sys; input(); sys.stderr.buffer.write(b'\\xff!\\n')", "ended early: .!"),
        ("print('{\"round\": ', end='')", "the measuring program ended early"),
        (
            'print(\'{"error": "crashed", "text": "MemoryError: "}\')',
            "device cpu: the measuring program failed: MemoryError",
        ),
    ],
)
def test_program_that_dies(program: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(runner, "__file__", str(tmp_path / "program.py"))
    with Connection(Device(), tmp_path) as connection, pytest.raises(MeasuringFailed, match=message) as caught:
        connection.ask({"ask": "missing", "names": []})
    assert not isinstance(caught.value, ConnectionLost) and one_line(caught.value)
