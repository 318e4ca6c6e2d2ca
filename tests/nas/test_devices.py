"""Devices of one machine take turns, machines work side by side, and what fails in one ends the others."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from latency.device import Device
from nas.devices import Progress, on_each

HERE = [Device.parse(name) for name in ("cpu", "cpu:threads=2", "cpu:int8")]
BOARD, OTHER = (Device.parse(f"ssh://{host}/cpu") for host in ("board", "other"))
SOON = 10.0
"""More than enough for what must happen (s); nothing waits as long unless the test fails."""


class Bar:
    """A bar that remembers what it was told, and whether it is open."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []
        self.open = False

    @contextmanager
    def __call__(self) -> Iterator[Progress]:
        self.open = True
        try:
            yield lambda done, total: self.told.append((done, total))
        finally:
            self.open = False


def test_results_have_the_order_of_the_devices() -> None:
    devices = [HERE[0], BOARD, HERE[1], OTHER, HERE[2]]
    assert on_each(devices, Bar()(), lambda device, _: device.name) == [device.name for device in devices]
    assert on_each([], Bar()(), lambda device, _: device.name) == []


class Turns:
    """Tells whether two devices of one machine were ever at work together: each waits a while for another to come."""

    def __init__(self) -> None:
        self.together = threading.Event()
        self.order: list[str] = []
        self._lock = threading.Lock()
        self._at_work: Counter[str] = Counter()

    def __call__(self, device: Device, told: Progress) -> str:
        with self._lock:
            self.order.append(device.name)
            self._at_work[device.host] += 1
            if self._at_work[device.host] > 1:
                self.together.set()
        self.together.wait(0.05)
        told(1, 1)
        with self._lock:
            self._at_work[device.host] -= 1
        return device.name


def test_devices_of_one_machine_take_turns() -> None:
    turns = Turns()
    on_each(HERE, Bar()(), turns)
    assert turns.order == [device.name for device in HERE] and not turns.together.is_set()


def test_a_machine_with_two_devices_beside_another() -> None:
    turns, second = Turns(), Device.parse("ssh://board/cpu:threads=2")
    devices = [HERE[0], BOARD, HERE[1], second]
    assert on_each(devices, Bar()(), turns) == [device.name for device in devices]
    assert not turns.together.is_set()
    for first, then in ((HERE[0], HERE[1]), (BOARD, second)):
        assert turns.order.index(first.name) < turns.order.index(then.name)


def test_machines_work_at_the_same_time() -> None:
    together = threading.Barrier(3)

    def work(device: Device, told: Progress) -> int:
        return together.wait(SOON)

    assert sorted(on_each([HERE[0], BOARD, OTHER], Bar()(), work)) == [0, 1, 2]


def test_progress_is_the_sum_over_the_devices() -> None:
    bar, begun = Bar(), threading.Barrier(2)

    def work(device: Device, told: Progress) -> None:
        total = 3 if device is BOARD else 5
        told(0, total)
        begun.wait(SOON)
        for done in range(1, total + 1):
            told(done, total)

    on_each([HERE[0], BOARD], bar(), work)
    dones = [done for done, _ in bar.told]
    assert dones == sorted(dones) and bar.told[-1] == (8, 8)
    assert bar.told[0] in {(0, 5), (0, 3)} and {total for _, total in bar.told[1:]} == {8}
    assert not bar.open


def test_progress_of_one_machine_adds_up() -> None:
    bar = Bar()
    on_each(HERE[:2], bar(), lambda device, told: [told(done, 2) for done in range(3)])
    assert bar.told == [(0, 2), (1, 2), (2, 2), (2, 4), (3, 4), (4, 4)]


class Broken(Exception):
    """What goes wrong on a device."""


@pytest.mark.parametrize("devices", [[HERE[0], BOARD], [BOARD, HERE[0]]], ids=["here first", "board first"])
def test_an_error_ends_the_other_machines_and_is_raised(devices: list[Device]) -> None:
    bar, at_work, ended = Bar(), threading.Event(), threading.Event()

    def work(device: Device, told: Progress) -> None:
        if device is BOARD:
            at_work.wait(SOON)
            raise Broken("no route")
        rounds = 0
        try:
            while rounds < 10**6:  # until it is told that the run is given up
                told(rounds, 10**6)
                at_work.set()
                rounds += 1
                ended.wait(1e-4)
        finally:
            ended.set()

    with pytest.raises(Broken, match="no route"):
        on_each(devices, bar(), work)
    assert ended.is_set() and bar.told[-1][0] < 10**6 and not bar.open


def test_an_error_ends_the_devices_that_wait_their_turn() -> None:
    started: list[str] = []

    def work(device: Device, told: Progress) -> None:
        started.append(device.name)
        raise Broken(device.name)

    with pytest.raises(Broken, match="cpu"):
        on_each(HERE, Bar()(), work)
    assert started == ["cpu"]


def test_interrupt_from_the_bar_ends_every_machine() -> None:
    """What the user's interrupt does: it is raised where the main thread waits, here by the bar of one machine."""
    reports = threading.Event()

    @contextmanager
    def bar() -> Iterator[Progress]:
        def report(done: int, total: int) -> None:
            if done >= 2:
                reports.set()
                raise KeyboardInterrupt

        yield report

    def work(device: Device, told: Progress) -> None:
        for done in range(10**6):
            told(done, 10**6)
            reports.wait(1e-4)

    with pytest.raises(KeyboardInterrupt):
        on_each([HERE[0], BOARD], bar(), work)
    assert reports.is_set()
