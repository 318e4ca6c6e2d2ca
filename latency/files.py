"""Files that matter: written atomically, versioned, sealed with a digest and checked when read."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from search_spaces.errors import InputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that takes the place of ``path`` only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all."""
    write_bytes(path, text.encode())


def produce(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file under a temporary name in the same folder, then put it at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def utc_now() -> str:
    """Return the time as ISO 8601 text in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def sha256(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def _digest(body: dict[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


def write_sealed(path: Path, schema_version: int, body: dict[str, Any], seal: str = "sha256") -> None:
    """Write ``body`` as JSON with its ``schema_version`` and, under the key ``seal``, a SHA-256 of everything else."""
    content = {"schema_version": schema_version, **body}
    write_text(path, json.dumps({**content, seal: _digest(content)}, indent=1) + "\n")


def kind_of(path: Path) -> str | None:
    """Return what a file of ``write_sealed`` says that it is (its ``kind``), or None where it does not say."""
    content = None
    with contextlib.suppress(OSError, ValueError):  # to complain is for who reads it
        content = json.loads(path.read_bytes())
    kind = content.get("kind") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None


def read_sealed(
    path: Path, schema_version: int, what: str, remedy: str = "delete it to make it anew", seal: str = "sha256"
) -> dict[str, Any]:
    """Read a file of ``write_sealed``; ``what`` names it in errors, ``remedy`` says what to do if it is damaged or old.

    Raises:
        InputError: the file is missing, is not JSON, has another schema version, or was changed or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist") from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{what} {path} is damaged: not valid JSON; {remedy}") from None
    if not isinstance(content, dict) or "schema_version" not in content:
        raise InputError(f"{path} is not a {what}: it has no schema_version")
    if content["schema_version"] != schema_version:
        found = content["schema_version"]
        older = isinstance(found, int) and found < schema_version
        raise InputError(
            f"{what} {path} has schema version {found}; this version reads {schema_version}"
            + (f"; {remedy}" if older else "")
        )
    if content.pop(seal, None) != _digest(content):
        raise InputError(f"{what} {path} is damaged: its checksum does not match; {remedy}")
    del content["schema_version"]
    return content
