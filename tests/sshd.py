"""An OpenSSH server on loopback with keys and a client configuration of its own, as the board of a test."""

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MISSING = next(
    (
        f"there is no {program} on this machine: install openssh-server"
        for program, path in (("sshd", SSHD), ("ssh", shutil.which("ssh")), ("ssh-keygen", shutil.which("ssh-keygen")))
        if path is None
    ),
    "" if Path("/proc/self/stat").exists() else "processes are watched in /proc, which this system lacks",
)
"""Why no server can be started here; empty where it can."""


# A server goes down with the tests that started it, where the system can see to it.
_DIES_WITH_ITS_PARENT = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_key(path: Path) -> str:
    """Make a pair of keys and return the public one."""
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


def descendants(root: int) -> dict[int, str]:
    """Return the names of the processes that ``root`` started, and that those started, by their ids."""
    children: dict[int, dict[int, str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            start, _, rest = path.read_text().rpartition(")")
            children.setdefault(int(rest.split()[1]), {})[int(path.parent.name)] = start.partition("(")[2]
    found: dict[int, str] = {}
    waiting = [root]
    for parent in waiting:
        found |= children.get(parent, {})
        waiting += children.get(parent, {})
    return found


class Board:
    """A server that this machine's user can log in to; its home folder is ``home``, its programs are this machine's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.home = folder / "home"
        self.settings = folder / "client_config"
        self.models = self.home / ".cache" / "nas-measure"
        self.home.mkdir()
        (folder / "authorized").write_text(_make_key(folder / "key"))
        (folder / "server_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"UsePAM no\nStrictModes no\nSetEnv HOME={self.home}\n"
        )
        self.write_settings()
        self.renew_host_key()
        self.trust()

    @property
    def address(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    def device(self, options: str = "cpu", python: str = "") -> str:
        """Return the device's name; by default, its ``python`` has no torch."""
        separator = "," if ":" in options else ":"
        return f"{self.address}/{options}{separator}python={python or self.python()}"

    def python(self, lacks: str = "torch", name: str = "python", before: str = "") -> Path:
        """Return a program that is this Python without the packages ``lacks``; it runs ``before`` first."""
        blocked = self._folder / f"without {lacks}"
        blocked.mkdir(exist_ok=True)
        for package in lacks.split():
            message = f"No module named '{package}'"
            (blocked / f"{package}.py").write_text(f"raise ModuleNotFoundError({message!r})\n")
        path = self._folder / (name if lacks == "torch" else f"{name}-without-{lacks.replace(' ', '-')}")
        run = shlex.join(["exec", "env", f"PYTHONPATH={blocked}", sys.executable])
        path.write_text(f'#!/bin/sh\n{before}\n{run} "$@"\n')
        path.chmod(0o755)
        return path

    def write_settings(self, key: str = "key", port: int | None = None) -> None:
        """Write the client's configuration; the host ``board`` is the server, by default."""
        self.settings.write_text(
            f"Host board\n  HostName 127.0.0.1\n  Port {port or self.port}\n  User {self.user}\n"
            f"Host *\n  IdentityFile {self._folder}/{key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {self._folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        )

    def make_stranger_key(self) -> str:
        """Make a key that the server does not know, and return its name for ``write_settings``."""
        _make_key(self._folder / "stranger")
        return "stranger"

    def renew_host_key(self) -> None:
        self._host_key = _make_key(self._folder / "host_key")

    def trust(self) -> None:
        """Let the client know the server's present key."""
        (self._folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {self._host_key}")

    def distrust(self) -> None:
        (self._folder / "known_hosts").write_text("")

    def start(self) -> None:
        if os.getuid() == 0:  # where the server, run by root, locks its child in
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        assert SSHD
        with (self._folder / "log").open("ab") as log:
            command = [*_DIES_WITH_ITS_PARENT, SSHD, "-D", "-e", "-f", str(self._folder / "server_config")]
            self._server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        wait_until(self._listens)

    def _listens(self) -> bool:
        assert self._server and self._server.poll() is None, (self._folder / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _processes(self) -> dict[int, str]:
        return descendants(self._server.pid) if self._server else {}

    def programs(self) -> list[int]:
        """Return the ids of what runs on the board."""
        return [pid for pid, name in self._processes().items() if not name.startswith("sshd")]

    def signal_connections(self, number: int) -> None:
        for pid, name in self._processes().items():
            if name.startswith("sshd"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def cut(self) -> None:
        """Break every connection; the server goes on."""
        self.signal_connections(signal.SIGKILL)

    def stop(self) -> None:
        """Break every connection and stop the server."""
        if self._server:
            self._server.send_signal(signal.SIGSTOP)  # it takes no new ones meanwhile
            self.cut()
            self._server.kill()
            self._server.wait()
            self._server = None

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Let the server answer nothing, as a board that hangs does."""
        assert self._server
        self.signal_connections(signal.SIGSTOP)
        self._server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._server.send_signal(signal.SIGCONT)
            self.signal_connections(signal.SIGCONT)
