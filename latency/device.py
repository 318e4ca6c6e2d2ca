"""The device: where and how latency is measured."""

from dataclasses import dataclass

from latency import runner
from search_spaces.errors import unknown


@dataclass(frozen=True)
class Device:
    """One target: a host with an ONNX Runtime execution provider, threads, batch and precision.

    ``name`` is what the user types with ``--device``.
    """

    name: str
    provider: str = "CPUExecutionProvider"
    threads: int = 1

    @classmethod
    def parse(cls, text: str) -> "Device":
        """Return the device that ``text`` names.

        Raises:
            InputError: there is no such device.
        """
        if text not in DEVICES:
            raise unknown("device", text, DEVICES)
        return DEVICES[text]

    def fingerprint(self) -> dict[str, str]:
        """Return what the numbers of this device depend on; tables of another fingerprint do not hold here."""
        return {
            "device": self.name,
            **runner.describe(),
            "provider": self.provider,
            "threads": str(self.threads),
            "batch": "1",
            "precision": "fp32",
        }


DEVICES = {"cpu": Device("cpu")}
"""The devices that can be measured on this host, by name."""
