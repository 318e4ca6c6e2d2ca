"""The devices of a run: different machines at the same time, the devices of one machine one after another."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from typing import TypeVar

from latency.device import Device

Progress = Callable[[int, int], None]
Result = TypeVar("Result")


class _Interrupted(Exception):
    """The other devices are given up as well."""


class _Shared:
    """One bar for all devices; it ends the work of each once the run is interrupted."""

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._counts: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self.interrupted = False

    def of(self, device: Device) -> Progress:
        def told(done: int, total: int) -> None:
            if self.interrupted:
                raise _Interrupted
            with self._lock:
                self._counts[device.name] = done, total
                sums = [sum(column) for column in zip(*self._counts.values(), strict=True)]
                self._report(sums[0], sums[1])

        return told


def on_each(
    devices: Sequence[Device],
    bar: AbstractContextManager[Progress],
    work: Callable[[Device, Progress], Result],
) -> list[Result]:
    """Return what ``work`` gives for each device, in their order; it is told where to report its progress.

    Devices that share a machine would disturb each other's measurements, others have nothing in common.
    """
    machines: dict[str, list[Device]] = {}
    for device in devices:
        machines.setdefault(device.host, []).append(device)
    results: dict[str, Result] = {}
    with bar as report:
        shared = _Shared(report)

        def run(machine: list[Device]) -> None:
            for device in machine:
                results[device.name] = work(device, shared.of(device))

        if len(machines) < 2:
            run(list(devices))
        else:
            with ThreadPoolExecutor(len(machines)) as pool:
                try:
                    for done in as_completed([pool.submit(run, machine) for machine in machines.values()]):
                        done.result()
                except BaseException:
                    shared.interrupted = True
                    raise
    return [results[device.name] for device in devices]
