"""Candidates are measured before they are trained where a budget decides."""

from pathlib import Path

import pytest
from fakes import MadeUpDevice, Quiet

from latency import build
from latency.build import build_table
from latency.device import Device
from latency.models import spread_networks
from nas.delivery import measured as measured_module
from nas.delivery.shortlist import WIDER, shortlist
from nas.folder import RunFolder
from nas.search.record import Evaluated
from nas.search.target import TableTarget
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
CPU = Device.parse("cpu")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> MadeUpDevice:
    made_up = MadeUpDevice(SPACE)
    monkeypatch.setattr(build, "measure", made_up)
    monkeypatch.setattr(measured_module, "measure", made_up)
    return made_up


@pytest.fixture
def unlimited(device: MadeUpDevice, tmp_path: Path) -> TableTarget:
    return TableTarget(SPACE, build_table(SPACE, CPU, tmp_path / "table.json"), None)


def rated(target: TableTarget) -> list[Evaluated]:
    """Return candidates by rising latency, each more accurate than the one before."""
    networks = sorted(spread_networks(SPACE, 12, seed=7), key=target.predict_ms)
    return [
        Evaluated(number, a, "search", 0.5 + number / 100, (target.predict_ms(a),), True)
        for number, a in enumerate(networks)
    ]


def limited(target: TableTarget, budget_ms: float) -> TableTarget:
    return TableTarget(SPACE, target.table, budget_ms)


def test_what_takes_longer_than_predicted_is_left_out(
    device: MadeUpDevice, unlimited: TableTarget, tmp_path: Path
) -> None:
    folder, trials, console = RunFolder(tmp_path, {"report": {}}), rated(unlimited), Quiet()
    target, count = limited(unlimited, trials[-1].ms[0]), 3
    device.factor = 1.1
    found = shortlist(folder, console, [CPU], [target], trials, count)
    assert 0 < len(found) < WIDER * count
    assert {t.number for t in trials if 1.1 * t.ms[0] > target.budget_ms}.isdisjoint(t.number for t in found)
    assert all(device.network_ms(t.architecture) <= target.budget_ms for t in found)
    assert console.said == [f"{len(found)} of the 9 best candidates keep the budget when they are measured"]
    # A resumed run reads what was measured.
    device.factor, asked = 2.0, len(device.asked)
    assert shortlist(folder, Quiet(), [CPU], [target], trials, count) == found and len(device.asked) == asked


def test_all_stay_where_none_keeps_the_budget(device: MadeUpDevice, unlimited: TableTarget, tmp_path: Path) -> None:
    trials, console = rated(unlimited), Quiet()
    device.factor = 100
    found = shortlist(
        RunFolder(tmp_path, {"report": {}}), console, [CPU], [limited(unlimited, trials[-1].ms[0])], trials, 2
    )
    assert len(found) == 2 * WIDER and console.said[0].startswith("0 of the 6 best candidates")
