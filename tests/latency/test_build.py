"""A whole table of a small space, measured here: complete, useful, resumable. No absolute time is asserted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from latency import build
from latency.build import (
    anchor_models,
    block_models,
    build_table,
    check_table,
    drift,
    network_models,
    spread_networks,
)
from latency.device import DEVICES
from latency.measure import Measured, Protocol
from latency.table import LatencyTable
from search_spaces.fbnet import FBNetSpace
from search_spaces.operators import Identity, MBConv

CPU = DEVICES["cpu"]
SPACE = FBNetSpace((1, 8, 8), 10)
PROTOCOL = Protocol(rounds=3)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[LatencyTable, Path]:
    path = tmp_path_factory.mktemp("table") / "cpu.json"
    return build_table(SPACE, CPU, path, PROTOCOL), path


def test_every_block_has_an_entry(built: tuple[LatencyTable, Path]) -> None:
    table, _ = built
    measurable = {block.key for block in SPACE.distinct_blocks() if not isinstance(block, Identity)}
    assert set(table.blocks) == measurable
    for entry in table.blocks.values():
        assert 0 < entry.cold_ms_low <= entry.cold_ms <= entry.cold_ms_high
        assert entry.steady_ms > 0


def test_table_is_on_disk_and_nothing_else(built: tuple[LatencyTable, Path]) -> None:
    table, path = built
    assert LatencyTable.load(path) == table
    assert [found.name for found in path.parent.iterdir()] == ["cpu.json"]
    table.require(CPU, SPACE.name, SPACE.input_shape, SPACE.classes)
    assert table.protocol == {"rounds": 3, "calls": 3, "seed": 0}


def test_predictions_rank_networks_that_were_held_out(built: tuple[LatencyTable, Path]) -> None:
    table, _ = built
    assert table.quality.networks == len(table.held_out) == 12
    assert table.quality.spearman > 0.5
    assert table.slope > 0


def test_rows_agree_with_the_table(built: tuple[LatencyTable, Path]) -> None:
    table, _ = built
    rows = [*table.calibration, *table.held_out]
    assert len({row.architecture for row in rows}) == 22
    for row in rows:
        blocks = SPACE.blocks(SPACE.parse(row.architecture))
        assert row.sum_ms == pytest.approx(table.sum_ms(blocks))
        assert row.predicted_ms == pytest.approx(table.predict_ms(blocks))


def test_check_finds_little_drift(built: tuple[LatencyTable, Path]) -> None:
    quality, drift = check_table(built[0], SPACE, CPU, PROTOCOL)
    assert 0.5 < drift < 2
    assert 0 < quality.networks <= 12


def test_drift_is_measured_over_predicted(built: tuple[LatencyTable, Path]) -> None:
    table, _ = built
    slower = table.model_copy(update={"slope": 10 * table.slope, "offset_ms": 10 * table.offset_ms})
    _, drift = check_table(slower, SPACE, CPU, Protocol(rounds=2, calls=1))
    assert 0.05 < drift < 0.2


def test_interrupted_build_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_table(SPACE, CPU, path, PROTOCOL, stop)
    assert not path.exists()
    (journal,) = tmp_path.iterdir()
    kept = journal.read_text().splitlines()[1:]
    assert len(kept) == 2
    # Whatever torch drew in the meantime: a new process starts from another state too.
    torch.rand(7)
    told: list[int] = []
    table = build_table(SPACE, CPU, path, PROTOCOL, lambda done, total: told.append(done))
    assert told == [2, 3]
    assert [found.name for found in tmp_path.iterdir()] == ["cpu.json"]
    first = json.loads(kept[0])
    assert min(first["cold_ms"]) > 0 and len(first["cold_ms"]) == len(table.blocks) + 22 + 1


def test_building_leaves_the_random_state_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "measure", stop)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        build_table(SPACE, CPU, tmp_path / "cpu.json", PROTOCOL)
    assert torch.equal(torch.rand(3), expected)


def test_models_of_blocks_and_networks() -> None:
    blocks = [MBConv((8, 4, 4), 8, 3, 1, 3), Identity((8, 4, 4))]
    assert list(block_models(blocks)) == [blocks[0].key]
    networks = spread_networks(SPACE, 2, 0)
    assert list(network_models(SPACE, networks)) == [a.text for a in networks]


def test_models_that_disagree_with_torch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    good = build.to_onnx
    monkeypatch.setattr(build, "to_onnx", lambda module, shape: good(nn.Identity(), shape))
    block = MBConv((8, 4, 4), 8, 3, 1, 3)
    with pytest.raises(RuntimeError, match=f"differ by .* on {block.key}"):
        block_models([block])


def test_spread_networks_are_different_and_reproducible() -> None:
    drawn = spread_networks(SPACE, 30, 1)
    assert len({a.id for a in drawn}) == 30
    assert drawn == spread_networks(SPACE, 30, 1) and drawn[:5] == spread_networks(SPACE, 5, 1)
    assert drawn != spread_networks(SPACE, 30, 2)


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.7, 0.3)])
def test_calibration_finds_slope_and_offset(slope: float, offset: float) -> None:
    sums = [0.5, 1.0, 2.0, 4.0]
    assert build._calibrate(sums, [offset + slope * s for s in sums]) == pytest.approx((slope, offset))


def test_calibration_weighs_errors_relative_to_the_latency() -> None:
    rng = np.random.default_rng(0)
    sums = rng.uniform(0.1, 10, 50)
    measured = sums * rng.lognormal(0, 0.1, 50)
    slope, offset = build._calibrate(list(sums), list(measured))

    def loss(a: float, b: float) -> float:
        return float((((b + a * sums) / measured - 1) ** 2).sum())

    steps = [(0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01), (0.01, -0.01)]
    assert all(loss(slope, offset) < loss(slope + a, offset + b) for a, b in steps)


def test_drift_is_the_median_change_of_the_anchors(built: tuple[LatencyTable, Path]) -> None:
    table, _ = built
    now = {row.architecture: Measured(1.5 * row.measured_ms, 0, 0) for row in table.calibration}
    assert drift(table, now) == pytest.approx(1.5)
    outlier = table.calibration[0].architecture
    assert drift(table, {**now, outlier: Measured(1e6, 0, 0)}) == pytest.approx(1.5)


def test_anchors_are_the_same_files_in_every_call(built: tuple[LatencyTable, Path]) -> None:
    table, _ = built
    first, state = anchor_models(table, SPACE), torch.random.get_rng_state()
    assert list(first) == [row.architecture for row in table.calibration]
    assert anchor_models(table, SPACE) == first
    assert torch.equal(torch.random.get_rng_state(), state)
