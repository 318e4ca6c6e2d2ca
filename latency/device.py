"""The device: where and how latency is measured."""

import re
from dataclasses import dataclass, fields

from search_spaces.errors import InputError, unknown

PROVIDERS = {
    "cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt", "rocm": "ROCM", "migraphx": "MIGraphX", "dml": "Dml",
    "coreml": "CoreML", "xnnpack": "Xnnpack", "acl": "ACL", "armnn": "ArmNN", "qnn": "QNN", "nnapi": "Nnapi",
    "openvino_ep": "OpenVINO",
}  # fmt: skip
"""ONNX Runtime's execution providers by the name that a user types, without the ending ``ExecutionProvider``."""

TARGETS = (*PROVIDERS, "openvino")
"""What a device may be called, before its options; ``openvino`` is the engine itself, not ONNX Runtime."""

PRECISIONS = ("fp32", "int8", "bf16")
_NUMBERS = {"threads": 256, "batch": 4096}
# No part may begin with "-", which ssh takes for an option.
_HOST = re.compile(
    r"ssh://(?P<user>\w[\w.-]*@)?(?P<host>\w[\w.-]*|\[[\da-fA-F:]+\])(:(?P<port>[1-9]\d{0,4}))?", re.ASCII
)


@dataclass(frozen=True)
class Device:
    """One target: a machine, an engine on it, and its threads, batch and precision.

    ``host`` is empty for this machine and ``ssh://[user@]host[:port]`` for another one, on which ``python`` runs the
    measuring program. ``target`` names an execution provider of ONNX Runtime or ``openvino``.
    """

    target: str = "cpu"
    host: str = ""
    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    python: str = "python3"

    @classmethod
    def parse(cls, text: str) -> "Device":
        """Return the device of ``[ssh://[user@]host[:port]/]TARGET[:OPTION,...]``.

        The options are ``threads=N``, ``batch=N``, ``int8``, ``bf16`` and, for other machines, ``python=PATH``.

        Raises:
            InputError: the text names no device.
        """
        host, rest = "", text
        if text.startswith("ssh:"):
            match = _HOST.match(text)
            if not match or text[match.end() : match.end() + 1] not in ("", "/"):
                raise InputError(f"device {text!r}: give another machine as ssh://user@host:port/cpu")
            if match["port"] and int(match["port"]) > 65535:
                raise InputError(f"device {text!r}: there is no port {match['port']}")
            host, rest = match[0], text[match.end() + 1 :] or "cpu"
        target, _, listed = rest.partition(":")
        if target not in TARGETS:
            raise unknown("device", target, TARGETS)
        values: dict[str, str | int] = {}
        for option in listed.split(",") if listed else ():
            key, value = _option(text, option)
            if key in values:
                raise InputError(f"device {text!r} gives {key} twice")
            values[key] = value
        device = cls(target, host, **values)  # type: ignore[arg-type]
        if device.precision == "bf16" and target != "openvino":
            raise InputError(f"device {text!r}: bf16 is an option of openvino alone")
        if device.python != "python3" and not host:
            raise InputError(f"device {text!r}: python is an option of ssh:// devices alone")
        return device

    @property
    def name(self) -> str:
        """What the user types for this device, in one canonical form."""
        options = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("target", "host") and value != field.default:
                options.append(str(value) if field.name == "precision" else f"{field.name}={value}")
        text = f"{self.host}/{self.target}" if self.host else self.target
        return f"{text}:{','.join(options)}" if options else text

    @property
    def slug(self) -> str:
        """The name in letters that any file system takes."""
        return re.sub(r"[^\w.=-]+", "-", self.name)

    @property
    def form(self) -> str:
        """What is special about the model files that this device runs: nothing, ``int8``, ``b4`` or ``b4.int8``."""
        batch = [f"b{self.batch}"] if self.batch > 1 else []
        return ".".join([*batch, *(["int8"] if self.precision == "int8" else [])])

    @property
    def address(self) -> tuple[str, str]:
        """Where ``ssh`` finds the machine: ``[user@]host``, and the port or nothing."""
        match = _HOST.fullmatch(self.host)
        return ("", "") if not match else ((match["user"] or "") + match["host"].strip("[]"), match["port"] or "")

    @property
    def engine(self) -> str:
        """The inference engine: ``onnxruntime`` or ``openvino``."""
        return "openvino" if self.target == "openvino" else "onnxruntime"

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider."""
        return f"{PROVIDERS.get(self.target, 'CPU')}ExecutionProvider"

    @property
    def quantity(self) -> str:
        """What this device's latency is: CPU time where the calling thread computes, wall time where others do too."""
        alone = self.threads == 1 and self.target in ("cpu", "openvino")
        return "cold_cpu_ms" if alone else "cold_wall_ms"

    @property
    def settings(self) -> dict[str, str]:
        """What of the fingerprint the user chose."""
        engine = {} if self.engine == "openvino" else {"provider": self.provider}
        return {**engine, "threads": str(self.threads), "batch": str(self.batch), "precision": self.precision}


def _option(device: str, text: str) -> tuple[str, str | int]:
    key, equals, value = text.partition("=")
    if text in PRECISIONS:
        return "precision", text
    if key in _NUMBERS and equals:
        if not value.isdecimal() or not 0 < int(value) <= _NUMBERS[key]:
            raise InputError(f"device {device!r}: {key} is a number from 1 to {_NUMBERS[key]}, not {value!r}")
        return key, int(value)
    if key == "python" and value:
        return key, value
    raise unknown(f"option of device {device!r}:", text, ["threads=N", "batch=N", "python=PATH", *PRECISIONS])
