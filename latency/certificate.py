"""Certificates: what was measured of an ONNX file, where, when and how, so that it can be repeated."""

from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from latency.device import Device
from latency.files import read_sealed, sha256, utc_now, write_sealed
from latency.host import fingerprint
from latency.measure import Measured, Protocol, Samples, latency_of
from latency.model_file import read_model
from search_spaces.errors import InputError

SCHEMA_VERSION = 1
_SEAL = "seal"  # sha256 is the ONNX file's
# A shared machine changes by more than the interval of a quiet minute.
TOLERANCE = 0.05


def beside(model: Path, device: Device, first: bool) -> Path:
    """Return where the certificate of ``model`` goes; of several devices, all but the first stand in the name."""
    return model.with_name(f"{model.stem}{'' if first else f'.{device.slug}'}.certificate.json")


class Certificate(BaseModel):
    """The latency of one ONNX file on one device.

    ``quantity`` says what the latencies (ms of one inference) are: CPU time of the calling thread or wall time, of the
    first call after other work. ``measured_ms_low`` and ``measured_ms_high`` bound the 90 % bootstrap interval of
    ``measured_ms``, which ``estimator`` describes; ``steady_ms`` is the same of repeated calls, by the
    same clock. ``model`` is the file's name, ``sha256`` that of its content with external data inside;
    ``measured_at`` is UTC, ISO 8601.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str
    sha256: str
    device: str
    fingerprint: dict[str, str]
    quantity: str
    predicted_ms: float | None = None
    measured_ms: float
    measured_ms_low: float
    measured_ms_high: float
    steady_ms: float | None = None
    runs: int
    protocol: dict[str, int | float]
    estimator: str = "mean of the faster half of the runs, 90 % bootstrap interval"
    measured_at: str
    versions: dict[str, str] = Field(default_factory=lambda: {"nas": version("nas")})

    @classmethod
    def of(
        cls, model: str, content: bytes, device: Device, samples: Samples, name: str, protocol: Protocol
    ) -> "Certificate":
        """Certify the file ``model``, which was measured under ``name`` on ``device``."""
        found, steady_ms = latency_of(samples, device.quantity, name)
        return cls(
            model=model,
            sha256=sha256(content),
            device=device.name,
            fingerprint=fingerprint(device),
            quantity=device.quantity,
            measured_ms=found.ms,
            measured_ms_low=found.low,
            measured_ms_high=found.high,
            steady_ms=steady_ms if protocol.calls > 1 else None,
            runs=len(samples[device.quantity][name]),
            protocol=protocol.record(),
            measured_at=utc_now(),
        )

    def save(self, path: Path) -> None:
        """Write the certificate to ``path``."""
        write_sealed(path, SCHEMA_VERSION, self.model_dump(mode="json"), _SEAL)

    @classmethod
    def load(cls, path: Path) -> "Certificate":
        """Read the certificate in ``path``.

        Raises:
            InputError: the file is missing, damaged or of another schema version.
        """
        remedy = "`nas measure --certify` makes a new one"
        try:
            return cls.model_validate(read_sealed(path, SCHEMA_VERSION, "certificate", remedy, _SEAL))
        except ValidationError as error:
            raise InputError(f"certificate {path} is damaged: {error.errors()[0]['msg']}; {remedy}") from None

    def content(self, folder: Path) -> bytes:
        """Return the content of the certified file in ``folder``.

        Raises:
            InputError: the file is missing, or is not what was measured.
        """
        found = read_model(folder / self.model)
        if sha256(found) != self.sha256:
            raise InputError(f"{folder / self.model} has changed since it was certified; measure it with --certify")
        return found

    def same_device(self) -> Device:
        """Return the certificate's device.

        Raises:
            InputError: the device cannot be reached, or is another one by now; the difference is named.
        """
        device = Device.parse(self.device)
        now = fingerprint(device)
        for key in sorted(self.fingerprint.keys() | now.keys()):
            before, after = self.fingerprint.get(key, "unknown"), now.get(key, "unknown")
            if before != after:
                raise InputError(
                    f"{self.model} was certified on another device: {key} was {before!r}, here it is {after!r}; "
                    "measure it with --certify"
                )
        return device

    def same_protocol(self) -> Protocol:
        """Return the protocol of the measurement.

        Raises:
            InputError: this version no longer measures that way.
        """
        given = self.protocol
        protocol = Protocol(
            rounds=int(given["rounds"]),
            calls=int(given["calls"]),
            seed=int(given["seed"]),
            most_rounds=int(given["most_rounds"]),
            interval_percent=given["interval_percent"],
        )
        if protocol.record() != given:
            raise InputError(f"{self.model} was certified by another version's protocol; measure it with --certify")
        return protocol

    def holds(self, now: Measured) -> tuple[bool, str]:
        """Tell whether a new measurement confirms the certificate, and in one line why.

        It does where the intervals overlap, or where the latencies differ by at most ``TOLERANCE``.
        """
        change = now.ms / self.measured_ms - 1
        overlap = now.low <= self.measured_ms_high and self.measured_ms_low <= now.high
        text = (
            f"certified {self.measured_ms:.4g} ms ({self.measured_ms_low:.4g}-{self.measured_ms_high:.4g}), "
            f"now {now.ms:.4g} ms ({now.low:.4g}-{now.high:.4g}): {100 * change:+.1f} %"
        )
        return overlap or abs(change) <= TOLERANCE, text
