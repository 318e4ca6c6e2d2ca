"""The machine of a device: the measuring program is started there and asked, over pipes or over SSH."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from latency import runner
from latency.device import Device
from search_spaces.errors import InputError

# How OpenSSH's complaints are explained, by a part of their text.
_ADVICE = {
    "Permission denied": "the key was refused; check that `{ssh}` works without a password (keys, ssh-agent)",
    "HAS CHANGED": "its host key is not the one of before; `{ssh}` tells how to accept it where that is right",
    "Host key verification failed": "its host key is unknown; connect once with `{ssh}` and check it",
    "Could not resolve hostname": "there is no such host; check its name",
    "Connection refused": "no SSH server answers there; check the port, and that sshd runs",
    "timed out": "it does not answer; check that it is switched on and that the network reaches it",
    "not responding": "it stopped answering; check that it is switched on and that the network reaches it",
    "No route to host": "the network does not reach it",
}
_CONNECTION_BROKE = 255  # the exit code of ssh where it is not that of the remote program
_CANNOT_RUN = (126, 127)  # the exit codes of a shell that cannot start a program
# The board needs no installation: the program comes first on its standard input.
_BOOTSTRAP = (
    "import sys; "
    "sys.version_info < (3, 10) and sys.exit('Python 3.10 or newer is needed, it is ' + sys.version.split()[0]); "
    "n = int(sys.stdin.buffer.readline()); exec(compile(sys.stdin.buffer.read(n), 'nas-measure', 'exec'))"
)


class MeasuringFailed(RuntimeError):
    """A measurement could not be finished; the rounds that arrived are kept."""


class ConnectionLost(MeasuringFailed):
    """The connection to another machine could not be made, or broke; another one may hold."""


def _port(device: Device) -> list[str]:
    return ["-p", device.address[1]] if device.address[1] else []


def _ssh(device: Device) -> list[str]:
    settings = os.environ.get("NAS_SSH_CONFIG")
    options = ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3", "LogLevel=INFO"]
    python = device.python.removeprefix("~/")  # it starts in the home folder, and quotes keep ~ from being replaced
    return [
        "ssh", "-T",
        *(["-F", settings] if settings else []),
        *(part for option in options for part in ("-o", option)),
        *_port(device),
        "--", device.address[0], shlex.join([python, "-c", _BOOTSTRAP]),
    ]  # fmt: skip


class Connection:
    """The measuring program of one device; it ends when the connection is closed or lost.

    On this machine it keeps model files in ``folder``, on another one in its user's cache.
    """

    def __init__(self, device: Device, folder: Path) -> None:
        self._device = device
        self._folder = folder
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> "Connection":
        device = self._device
        self._errors = self._resources.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
        if device.host:
            command = _ssh(device)
        else:
            command = [sys.executable, runner.__file__, str(self._folder)]
        try:
            self._program = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                start_new_session=True,  # an interrupt from the keyboard is this process's to handle
            )  # fmt: skip
        except FileNotFoundError:
            self._resources.close()
            raise InputError(f"device {device.name}: there is no {command[0]} program on this machine") from None
        if device.host:
            program = Path(runner.__file__).read_bytes()
            self._write(b"%d\n" % len(program) + program)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._program.stdin and self._program.stdout
        with contextlib.suppress(BrokenPipeError):
            self._program.stdin.close()  # it ends when its input closes
        self._program.stdout.close()
        try:
            self._program.wait(timeout=10)
        except subprocess.TimeoutExpired:  # the other end hangs
            self._program.kill()
            self._program.wait()
        self._resources.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the one answer to a request.

        Raises:
            InputError: the device refuses, with the reason.
            ConnectionLost: the connection broke before it answered.
            MeasuringFailed: the program failed or died before it answered.
        """
        self._write(json.dumps(request).encode() + b"\n")
        return self._answer()

    def rounds(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the rounds of a measuring job until it is done; raises as ``ask`` does."""
        self._write(json.dumps({**job, "ask": "measure"}).encode() + b"\n")
        while "done" not in (row := self._answer()):
            yield row

    def send(self, files: Mapping[str, bytes]) -> None:
        """Copy ``files`` (name -> content) to the device; those that are there already stay.

        Raises:
            OSError: this machine's disk is full; another machine says so in its next answer.
        """
        for name in self.ask({"ask": "missing", "names": list(files)})["missing"]:
            if not self._device.host:
                (self._folder / name).write_bytes(files[name])
                continue
            header = {"ask": "put", "name": name, "bytes": len(files[name])}
            self._write(json.dumps(header).encode() + b"\n" + files[name])

    def remove(self, names: Iterable[str]) -> None:
        """Delete files that were sent."""
        self.ask({"ask": "remove", "names": list(names)})

    def _write(self, data: bytes) -> None:
        assert self._program.stdin
        with contextlib.suppress(BrokenPipeError):  # it is dead; its last words follow when it is read
            self._program.stdin.write(data)
            self._program.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._program.stdout
        while (line := self._program.stdout.readline()).endswith(b"\n"):
            try:
                answer = json.loads(line) if line.startswith(b"{") else {}
            except ValueError:
                answer = {}
            if "error" in answer:
                if answer["error"] == "crashed":
                    raise MeasuringFailed(f"device {self._device.name}: the measuring program failed: {answer['text']}")
                raise InputError(f"device {self._device.name}: {answer['text']}")
            if answer:  # the rest is a greeting of the board's shell
                return dict(answer)
        raise self._death()

    def _death(self) -> MeasuringFailed:
        """Return why no answer came."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(timeout=5)
        self._errors.seek(0)
        failure, reason = _explained(self._device, self._program.returncode, self._errors.read().strip())
        return failure(f"device {self._device.name}: {reason}")


def _explained(device: Device, code: int | None, said: str) -> tuple[type[MeasuringFailed], str]:
    """Return what it means that a program exited with ``code`` (None: it hangs) after it wrote ``said``."""
    last = said.splitlines()[-1].strip() if said else "without a message"
    if device.host and code in (_CONNECTION_BROKE, None):
        ssh = shlex.join(["ssh", *_port(device), device.address[0]])
        advice = next((text.format(ssh=ssh) for part, text in _ADVICE.items() if part in said), "the connection broke")
        return ConnectionLost, f"{advice} ({last})"
    if device.host and code in _CANNOT_RUN:
        other = f"{device.host}/{device.target}:python=PATH"
        return MeasuringFailed, f"{device.python} cannot be run there ({last}); name another one as in {other}"
    hint = f"; install what {device.python} lacks there" if device.host and "No module named" in last else ""
    return MeasuringFailed, f"the measuring program ended early: {last}{hint}"


@cache
def _described(device: Device) -> dict[str, str]:
    try:
        with tempfile.TemporaryDirectory() as folder, Connection(device, Path(folder)) as connection:
            wanted = {"engine": device.engine, "provider": device.provider, "precision": device.precision}
            answer = connection.ask({"ask": "describe", **wanted})
    except MeasuringFailed as error:
        raise InputError(str(error)) from None
    return dict(answer["describe"])


def fingerprint(device: Device) -> dict[str, str]:
    """Return what the numbers of ``device`` depend on; tables of another fingerprint do not hold for it.

    Raises:
        InputError: the device cannot be reached, or lacks the engine or the execution provider.
    """
    return {"device": device.name, **_described(device), **device.settings}
