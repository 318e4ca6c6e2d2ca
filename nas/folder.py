"""The folder of a run: one owner at a time, one search for life, and a record of how it came about."""

import fcntl
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from latency.device import Device
from latency.files import read_sealed, write_sealed
from nas.config import SearchConfig
from search_spaces.errors import InputError

SCHEMA_VERSION = 1
# Once one of these stages has run, the folder holds work that is worth keeping.
_BEGUN = {"oracle", "distribution", "search", "finalists"}
_PACKAGES = ("nas", "torch", "onnx", "onnxruntime", "optuna", "ray", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}


class RunFolder:
    """Paths and the record (``run.json``) of a run."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record

    @property
    def journal(self) -> Path:
        """The Optuna journal of the study."""
        return self.path / "study.journal"

    @property
    def supernet(self) -> Path:
        """The checkpoint of the supernet."""
        return self.path / "supernet.safetensors"

    @property
    def blockwise(self) -> Path:
        """The checkpoints of a supernet that is trained stage by stage."""
        return self.path / "blockwise"

    @property
    def ranks(self) -> Path:
        """How the supernet ranks networks, beside their training from scratch."""
        return self.path / "ranks.json"

    @property
    def naswot(self) -> Path:
        """The naswot scores of candidates."""
        return self.path / "naswot.json"

    @property
    def reused(self) -> Path:
        """The candidates that an earlier run has rated (``--from``)."""
        return self.path / "reused.json"

    @property
    def distribution(self) -> Path:
        """The learned distribution of architectures."""
        return self.path / "distribution.json"

    @property
    def rungs(self) -> Path:
        """Networks whose training may go on (successive halving)."""
        return self.path / "rungs"

    @property
    def plan(self) -> Path:
        """How ``--time`` is divided."""
        return self.path / "plan.json"

    @property
    def cache(self) -> Path:
        """Decoded images."""
        return self.path / "data"

    def table(self, device: Device) -> Path:
        """Return the latency table of a device."""
        return self.path / "tables" / f"{device.slug}.json"

    def measured(self, device: Device) -> Path:
        """Return the finalists' latencies on a device."""
        return self.path / "measured" / f"{device.slug}.json"

    def shortlist(self, device: Device) -> Path:
        """Return the latencies of untrained candidates on a device."""
        return self.path / "measured" / f"{device.slug}.shortlist.json"

    def save(self) -> None:
        """Write the record."""
        write_sealed(self.path / "run.json", SCHEMA_VERSION, self.record)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to the stage's time, also when it is interrupted."""
        start = time.monotonic()
        try:
            yield
        finally:
            stages = self.record["stages"]
            stages[name] = round(stages.get(name, 0.0) + time.monotonic() - start, 2)
            self.save()


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of the run in ``path``.

    Raises:
        InputError: there is no run, or its record is damaged.
    """
    if not (path / "run.json").exists():
        raise InputError(f"{path} holds no run: it has no run.json")
    return read_sealed(
        path / "run.json", SCHEMA_VERSION, "run record", "restore it from a copy, or begin anew with another --out"
    )


def settings(record: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run by its record: those that it was told, or that its plan decided (``--time``)."""
    return {**record["config"], **record["identity"], **record.get("planned", {})}


@contextmanager
def open_folder(config: SearchConfig, command: str) -> Iterator[RunFolder]:
    """Open the folder of ``--out`` for a search, alone; create it where it does not exist.

    Raises:
        InputError: it holds another search or other files, or another process is at work in it.
    """
    path, existed = config.out, config.out.exists()
    if existed and not path.is_dir():
        raise InputError(f"--out {path} is a file; give an empty or new folder")
    if (path / "run.json").exists():
        record = read_record(path)
        _require_same(path, record["identity"], config.identity())
    elif path.is_dir() and any(name.name != "run.lock" for name in path.iterdir()):
        raise InputError(f"--out {path} holds other files; give an empty or new folder")
    else:
        record = {"identity": config.identity(), "commands": [], "stages": {}, "report": {}}
    path.mkdir(parents=True, exist_ok=True)
    with (path / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is at work in {path}; wait for it or stop it") from None
        record |= {"config": config.model_dump(mode="json"), "versions": versions(), "seed": config.seed}
        record["commands"] = [*record["commands"], command]
        folder = RunFolder(path, record)
        folder.save()
        try:
            yield folder
        except InputError:
            if len(record["commands"]) == 1 and not _BEGUN & record["stages"].keys():
                _undo(path, existed)
            raise


def _undo(path: Path, existed: bool) -> None:
    """Leave no trace of a search that never began, so that the corrected command can use the folder."""
    for child in path.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    if not existed:
        path.rmdir()


def _require_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key, value in now.items():
        if before.get(key) != _as_json(value):
            flag = "--" + key.replace("_", "-")
            raise InputError(
                f"{path} holds another search: there {flag} was {_shown(before.get(key))}, now it is {_shown(value)}; "
                "give the same settings to resume it, or another --out"
            )


def _shown(value: object) -> str:
    """Return a setting as it is given on the command line."""
    if value is None:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _as_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
