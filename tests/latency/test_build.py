"""Tables measured here, complete and resumable (no absolute time is asserted), and of a device known exactly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import MadeUpDevice
from toy_space import ToySpace

from latency import build, models
from latency import measure as measuring
from latency.build import (
    ANCHORS,
    FRESH_NETWORKS,
    NETWORKS,
    anchor_models,
    build_table,
    check_table,
    drift,
    extend_table,
    recalibrate_table,
)
from latency.calibrate import Calibration
from latency.device import Device
from latency.host import fingerprint
from latency.measure import Measured, Protocol
from latency.models import probe_name, probed_shapes
from latency.table import LatencyTable
from search_spaces.architecture import Architecture
from search_spaces.einspace.derive import Limits
from search_spaces.einspace.space import EinSpace
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.nb201 import NB201Space
from search_spaces.space import SearchSpace, sample

CPU = Device()
TOY = ToySpace((1, 8, 8))
FBNET = FBNetSpace((1, 8, 8), 10)
PROTOCOL = Protocol(rounds=4, calls=2, most_rounds=4)
Built = tuple[LatencyTable, Path]


@pytest.fixture(autouse=True)
def small_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SWEEP_BYTES", 2**20)


# --- measured here


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    path = tmp_path_factory.mktemp("table") / "cpu.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "SWEEP_BYTES", 2**20)
        return build_table(TOY, CPU, path, PROTOCOL), path


def test_every_block_has_an_entry(built: Built) -> None:
    table, _ = built
    assert set(table.blocks) == {block.key for block in TOY.distinct_blocks() if not block.free}
    for entry in table.blocks.values():
        assert 0 < entry.cold_ms_low <= entry.cold_ms <= entry.cold_ms_high
        assert entry.steady_ms > 0
    assert table.session_ms > 0 and table.border_ms_per_mib >= 0


def test_table_is_on_disk_and_nothing_else(built: Built) -> None:
    table, path = built
    assert LatencyTable.load(path) == table
    assert [found.name for found in path.parent.iterdir()] == ["cpu.json"]
    table.require(CPU, TOY.name, TOY.input_shape, TOY.classes)
    assert table.fingerprint == fingerprint(CPU) and table.quantity == "cold_cpu_ms"
    assert table.protocol["rounds"] == table.session.rounds == 4 and table.protocol["seed"] == 0


def test_each_network_is_a_check(built: Built) -> None:
    table, _ = built
    assert len({row.architecture for row in table.networks}) == len(table.networks) == table.quality.networks == 16
    assert all(row.measured_ms > 0 and row.predicted_ms > 0 for row in table.networks)


def test_interrupted_build_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_table(TOY, CPU, path, PROTOCOL, stop)
    assert not path.exists()
    (journal,) = tmp_path.iterdir()
    kept = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert len(kept) == 2
    # Whatever torch drew in the meantime: a new process starts from another state too.
    torch.rand(7)
    told: list[tuple[int, int]] = []
    table = build_table(TOY, CPU, path, PROTOCOL, lambda done, total: told.append((done, total)))
    assert told == [(2, 4), (3, 4), (4, 4)]
    assert [found.name for found in tmp_path.iterdir()] == ["cpu.json"]
    probes = 2 * len(probed_shapes(TOY))
    assert len(kept[0]["cold_cpu_ms"]) == len(table.blocks) + len(table.networks) + probes + 1


def test_building_leaves_the_random_state_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "measure", MadeUpDevice(TOY))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_table(TOY, CPU, tmp_path / "cpu.json", PROTOCOL)
    assert torch.equal(torch.rand(3), expected)


def test_missing_blocks_are_measured_and_the_others_stay(built: Built, tmp_path: Path) -> None:
    table, _ = built
    path = tmp_path / "cpu.json"
    lacking = TOY.distinct_blocks()[0]
    part = table.model_copy(update={"blocks": {k: e for k, e in table.blocks.items() if k != lacking.key}})
    told: list[int] = []
    whole = extend_table(part, TOY, CPU, path, TOY.distinct_blocks(), PROTOCOL, lambda done, total: told.append(done))
    assert told == [0, 1, 2, 3, 4]
    assert whole.extends(part) and set(whole.blocks) == set(table.blocks)
    assert 0 < whole.blocks[lacking.key].cold_ms < 30 * table.blocks[lacking.key].cold_ms
    assert LatencyTable.load(path) == whole and [found.name for found in tmp_path.iterdir()] == ["cpu.json"]


def small(patch: pytest.MonkeyPatch) -> EinSpace:
    """Return a space with no end of blocks, of which few are measured."""
    patch.setattr(build, "VARIED_NETWORKS", 20)
    patch.setattr(models, "DRAWN", 30)
    patch.setattr(models, "PER_KIND", 9)
    limits = Limits(macs=200_000, params=20_000, elements=10_000, functions=4, depth=2)
    return EinSpace((1, 8, 8), 3, limits=limits)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> EinSpace:
    return small(monkeypatch)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[MadeUpDevice, LatencyTable, Path]:
    """A device whose blocks pay for no borders, and the table of that space on it."""
    path = tmp_path_factory.mktemp("endless") / "cpu.json"
    with pytest.MonkeyPatch.context() as patch:
        space = small(patch)
        device = MadeUpDevice(space)
        device.BORDER_MS_PER_MIB = 0.0
        patch.setattr(build, "measure", device)
        return device, build_table(space, CPU, path, PROTOCOL), path


def lacking(space: SearchSpace, table: LatencyTable) -> Architecture:
    """Return a network with blocks that the table has not measured."""
    rng = np.random.default_rng(1)
    return next(a for a in iter(lambda: sample(space, rng), None) if table.missing(space.blocks(a)))


def test_spaces_without_end_of_blocks_are_measured_on_demand(few: EinSpace, tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    table = build_table(few, CPU, path, PROTOCOL)
    assert table.quality.networks == 20 and not few.distinct_blocks()
    other = few.blocks(lacking(few, table))
    assert table.predict_ms(other) > 0
    whole = extend_table(table, few, CPU, path, other, PROTOCOL)
    assert not whole.missing(other) and set(whole.blocks) > set(table.blocks) and whole.predict_ms(other) > 0
    assert LatencyTable.load(path) == whole


def test_blocks_of_an_endless_space_are_predicted_where_not_measured(
    few: EinSpace, made_up: tuple[MadeUpDevice, LatencyTable, Path]
) -> None:
    device, table, _ = made_up
    asked = device.asked[0]
    assert not any(name.startswith("probe") for name in asked)
    # What is predicted for the networks that calibrate it is not measured for them.
    used = {b.key for row in table.networks for b in few.blocks(few.parse(row.architecture)) if not b.free}
    assert used - set(table.blocks) and set(table.blocks) == {name for name in asked if name in device.blocks}
    assert table.prediction and table.prediction.blocks == len(table.blocks) == len(table.rows)
    assert 0 < table.prediction.predicted_percent < 100
    assert table.prediction.mape_percent < 5 and table.quality.mape_percent < 5 and table.quality.spearman > 0.9
    assert "blocks that are predicted" in table.lines()
    other = lacking(few, table)
    assert table.predict_ms(few.blocks(other)) == pytest.approx(device.network_ms(other), rel=0.1)


def test_predictions_are_the_same_when_a_table_is_read_again(
    few: EinSpace, made_up: tuple[MadeUpDevice, LatencyTable, Path]
) -> None:
    _, table, path = made_up
    blocks = few.blocks(lacking(few, table))
    first = table.predict_ms(blocks)
    assert LatencyTable.load(path).predict_ms(blocks) == first == table.predict_ms(blocks)
    # Nothing of what a table predicted is left in a copy with other rows.
    slower = {key: entry.model_copy(update={"steady_ms": 2 * entry.steady_ms}) for key, entry in table.blocks.items()}
    assert table.model_copy(update={"blocks": slower}).predict_ms(blocks) > first


def test_drift_of_an_endless_space_is_told_by_the_networks_of_its_table(
    few: EinSpace, made_up: tuple[MadeUpDevice, LatencyTable, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device, table, _ = made_up
    monkeypatch.setattr(build, "measure", device)
    monkeypatch.setattr(device, "factor", 1.2)
    quality, change = check_table(table, few, CPU, PROTOCOL)
    assert change == pytest.approx(1.2) and quality.networks == FRESH_NETWORKS and quality.mape_percent < 10
    assert set(device.asked[-1]) > {row.architecture for row in table.networks[:ANCHORS]}
    renewed = recalibrate_table(table, few, CPU, tmp_path / "cpu.json", PROTOCOL)
    other = few.blocks(lacking(few, table))
    assert renewed.predict_ms(other) == pytest.approx(1.2 * table.predict_ms(other), rel=1e-6)


def test_int8_is_refused_where_a_block_has_no_such_form(few: EinSpace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cpu:int8 cannot run every block in int8: \S+: no operator .* int8 form"):
        build_table(few, Device.parse("cpu:int8"), tmp_path / "cpu.json", PROTOCOL)
    assert list(tmp_path.iterdir()) == []


def test_check_measures_a_small_space_again(built: Built) -> None:
    quality, change = check_table(built[0], TOY, CPU, Protocol(rounds=3, calls=1, most_rounds=3))
    assert quality.networks == FRESH_NETWORKS and 0.1 < change < 10


# --- of a device that is known exactly


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> MadeUpDevice:
    made_up = MadeUpDevice(FBNET)
    monkeypatch.setattr(build, "measure", made_up)
    return made_up


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[LatencyTable, list[str]]:
    """The table of the made-up device, and what was measured for it."""
    made_up = MadeUpDevice(FBNET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "measure", made_up)
        table = build_table(FBNET, CPU, tmp_path_factory.mktemp("exact") / "cpu.json", PROTOCOL)
    return table, made_up.asked[0]


@pytest.fixture
def exact(first: tuple[LatencyTable, list[str]], tmp_path: Path) -> Built:
    first[0].save(tmp_path / "cpu.json")
    return first[0], tmp_path / "cpu.json"


def test_what_is_asked(first: tuple[LatencyTable, list[str]]) -> None:
    table, names = first
    blocks = {block.key for block in FBNET.distinct_blocks() if not block.free}
    probes = {probe_name(shape, depth) for shape in probed_shapes(FBNET) for depth in (1, 3)}
    networks = {row.architecture for row in table.networks}
    assert len(networks) == NETWORKS and len(names) == len(set(names))
    assert set(names) == blocks | probes | networks | {"empty session"}


def test_entries_are_what_the_device_takes(exact: Built, device: MadeUpDevice) -> None:
    table, _ = exact
    assert table.session_ms == MadeUpDevice.SESSION_MS
    assert table.border_ms_per_mib == pytest.approx(MadeUpDevice.BORDER_MS_PER_MIB)
    for key, entry in table.blocks.items():
        assert entry.cold_ms == entry.cold_ms_low == entry.cold_ms_high == 2 * entry.steady_ms == device.ms(key, 1)


def test_features_are_those_of_the_device(exact: Built, device: MadeUpDevice) -> None:
    table, _ = exact
    networks = [FBNET.parse(row.architecture) for row in table.networks]
    for network in networks:
        found, expected = table.features(FBNET.blocks(network)), device.features(network)
        counts = {"core_ms", "blocks", "switch_ms"}
        assert found.model_dump(include=counts) == pytest.approx(expected.model_dump(include=counts))
        assert found.kinds == expected.kinds == {}
    assert any(device.features(network).switch_ms > 0 for network in networks)


def numbers(found: Calibration) -> list[float]:
    return [found.slope, found.offset_ms, found.block_ms, found.switch_share]


def test_predictions_are_exact_where_the_device_is_as_expected(exact: Built, device: MadeUpDevice) -> None:
    table, _ = exact
    assert table.quality.networks == NETWORKS
    assert table.quality.mape_percent < 1e-6 and table.quality.spearman == pytest.approx(1)
    assert numbers(table.calibration) == pytest.approx([1, 0, 0, 0.4], abs=1e-6)
    for row in table.networks:
        assert row.measured_ms == device.network_ms(FBNET.parse(row.architecture))
        assert row.predicted_ms == pytest.approx(row.measured_ms)


def test_predictions_are_near_where_the_device_is_not(device: MadeUpDevice, tmp_path: Path) -> None:
    device.calibration = Calibration(slope=0.85, offset_ms=0.03, block_ms=0.004, switch_share=0.8)
    table = build_table(FBNET, CPU, tmp_path / "cpu.json", PROTOCOL)
    assert table.quality.mape_percent < 0.5 and table.quality.within_5_percent == 100
    # Predicted without having been seen: by none of the calibrations quite as by the one of them all.
    for row in table.networks:
        assert row.predicted_ms != table.predict_ms(FBNET.blocks(FBNET.parse(row.architecture)))
    assert numbers(table.calibration) == pytest.approx([0.85, 0.03, 0.004, 0.8], rel=0.25)


def test_cells_are_sums_of_blocks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = NB201Space((1, 8, 8), 10)
    made_up = MadeUpDevice(space)
    monkeypatch.setattr(build, "measure", made_up)
    table = build_table(space, CPU, tmp_path / "cpu.json", PROTOCOL)
    assert set(table.blocks) == {block.key for block in space.distinct_blocks() if not block.free}
    assert table.quality.mape_percent < 1e-6 and table.quality.networks == NETWORKS
    nothing = space.parse(",".join(["none"] * 6))
    assert table.predict_ms(space.blocks(nothing)) == pytest.approx(made_up.network_ms(nothing))


def test_batches_have_larger_borders(device: MadeUpDevice, tmp_path: Path) -> None:
    target = Device.parse("cpu:batch=4")
    table = build_table(FBNET, target, tmp_path / "b4.json", PROTOCOL)
    assert table.border_ms_per_mib == pytest.approx(MadeUpDevice.BORDER_MS_PER_MIB)
    (stem,) = FBNET.positions()[0]
    assert table.features([stem]).core_ms == pytest.approx(device.core_ms(stem))


def test_borders_by_hand() -> None:
    # A chain of one takes 1.7 and one of three 2.1: 0.2 each convolution, 0.5 the session, and 1.0 is the border.
    shapes = [(64, 64, 64), (16, 64, 64)]
    cold = {build._SESSION: 0.5, probe_name(shapes[0], 1): 1.7, probe_name(shapes[0], 3): 2.1}
    assert build._border_ms_per_mib(cold, shapes[:1], batch=1) == pytest.approx(1.0)
    assert build._border_ms_per_mib(cold, shapes[:1], batch=2) == pytest.approx(0.5)
    # The smaller one: 0.9 without border and session, none of it explained by convolutions.
    more = {**cold, probe_name(shapes[1], 1): 1.4, probe_name(shapes[1], 3): 1.4}
    assert build._border_ms_per_mib(more, shapes, batch=1) == pytest.approx((1.0 + 0.9) / 1.25)
    # A border is never a gain, and without probes nothing is known of it.
    less = {**cold, probe_name(shapes[0], 1): 0.6}
    assert build._border_ms_per_mib(less, shapes[:1], batch=1) == 0
    assert build._border_ms_per_mib(cold, [], batch=1) == 0


def test_drift_is_taken_out_of_what_is_added_later(exact: Built, device: MadeUpDevice) -> None:
    table, path = exact
    lacking = FBNET.distinct_blocks()[1:6]
    keys = {block.key for block in lacking if not block.free}
    part = table.model_copy(update={"blocks": {k: e for k, e in table.blocks.items() if k not in keys}})
    device.factor = 1.2
    whole = extend_table(part, FBNET, CPU, path, FBNET.distinct_blocks(), PROTOCOL)
    assert set(device.asked[-1]) == keys | {row.architecture for row in table.networks[:ANCHORS]}
    assert whole.extends(part) and LatencyTable.load(path) == whole
    for block in lacking:
        if not block.free:
            assert whole.blocks[block.key].cold_ms == pytest.approx(1.2 * table.blocks[block.key].cold_ms)
            found, expected = (t.features([block]).core_ms for t in (whole, table))
            assert found == pytest.approx(expected)


def test_a_whole_table_is_not_measured_again(exact: Built, device: MadeUpDevice) -> None:
    table, path = exact
    before = path.stat().st_mtime_ns
    assert extend_table(table, FBNET, CPU, path, FBNET.distinct_blocks(), PROTOCOL) == table
    assert device.asked == [] and path.stat().st_mtime_ns == before


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_check_tells_drift_from_error(factor: float, exact: Built, device: MadeUpDevice) -> None:
    table, _ = exact
    device.factor = factor
    quality, change = check_table(table, FBNET, CPU, PROTOCOL)
    assert change == pytest.approx(factor)
    assert quality.good and quality.mape_percent < 1e-6 and quality.networks == FRESH_NETWORKS
    asked = set(device.asked[-1])
    assert len(asked) == FRESH_NETWORKS and not asked & {row.architecture for row in table.networks}


def test_check_prefers_networks_that_the_table_does_not_know(device: MadeUpDevice, tmp_path: Path) -> None:
    # By these seeds the first networks to be drawn are the table's own.
    table = build_table(FBNET, CPU, tmp_path / "cpu.json", replace(PROTOCOL, seed=1))
    check_table(table, FBNET, CPU, replace(PROTOCOL, seed=0))
    assert not set(device.asked[-1]) & {row.architecture for row in table.networks}


def test_check_tells_error_from_drift(exact: Built, device: MadeUpDevice) -> None:
    table, _ = exact
    device.calibration = Calibration(slope=-1, offset_ms=2, block_ms=0, switch_share=0.0)
    quality, _ = check_table(table, FBNET, CPU, PROTOCOL)
    assert not quality.good and quality.spearman < 0


def test_recalibrated_tables_predict_the_device_of_now(exact: Built, device: MadeUpDevice) -> None:
    table, path = exact
    device.factor = 1.2
    renewed = recalibrate_table(table, FBNET, CPU, path, PROTOCOL)
    assert set(device.asked[-1]) == {row.architecture for row in table.networks}
    for key, entry in renewed.blocks.items():  # what was measured stays as it was
        assert entry.scale == pytest.approx(1.2) and entry.model_copy(update={"scale": 1.0}) == table.blocks[key]
    assert LatencyTable.load(path) == renewed and [found.name for found in path.parent.iterdir()] == ["cpu.json"]
    assert renewed.quality.mape_percent < 1e-6
    networks = [FBNET.parse(row.architecture) for row in table.networks]
    assert [row.measured_ms for row in renewed.networks] == [device.network_ms(a) for a in networks]
    quality, change = check_table(renewed, FBNET, CPU, PROTOCOL)
    assert change == pytest.approx(1) and quality.mape_percent < 1e-6


def test_recalibration_finds_another_calibration(exact: Built, device: MadeUpDevice) -> None:
    table, path = exact
    device.calibration = Calibration(slope=1.1, offset_ms=0.05, block_ms=0.0, switch_share=0.0)
    assert check_table(table, FBNET, CPU, PROTOCOL)[0].mape_percent > 0.5
    renewed = recalibrate_table(table, FBNET, CPU, path, PROTOCOL)
    assert renewed.quality.mape_percent < 0.5
    assert check_table(renewed, FBNET, CPU, PROTOCOL)[0].mape_percent < 0.5


def test_recalibrated_tables_can_be_extended(exact: Built, device: MadeUpDevice) -> None:
    table, path = exact
    lacking = [block for block in FBNET.distinct_blocks() if not block.free][3]
    device.factor = 1.2
    whole = recalibrate_table(table, FBNET, CPU, path, PROTOCOL)
    renewed = whole.model_copy(update={"blocks": {k: e for k, e in whole.blocks.items() if k != lacking.key}})
    # In a session of the slower device, and in one in which it is as fast as at first.
    for factor in (1.2, 1.0):
        device.factor = factor
        extended = extend_table(renewed, FBNET, CPU, path, [lacking], PROTOCOL)
        entry = extended.blocks[lacking.key]
        assert entry.cold_ms == pytest.approx(factor * table.blocks[lacking.key].cold_ms)
        assert entry.scale == pytest.approx(1.2 / factor)
        found, expected = (t.features([lacking]).core_ms for t in (extended, whole))
        assert found == pytest.approx(expected)


def test_steadiness_of_halves() -> None:
    keys = [f"block {i}" for i in range(40)]
    # In the second half all are 30 % slower; a quarter of the blocks are 40 % slower instead.
    late = np.array([1.4 if i < 10 else 1.3 for i in range(40)])
    cold = {key: np.concatenate([np.full(6, 1.0), np.full(6, late[i])]) for i, key in enumerate(keys)}
    cold["anchor"] = np.concatenate([np.full(6, 2.0), np.full(6, 2.5)])
    wall = {key: 1.5 * values for key, values in cold.items()}
    samples = {"cold_cpu_ms": cold, "cold_wall_ms": wall, "steady_cpu_ms": cold, "steady_wall_ms": wall}
    session = build._session(samples, keys, "anchor", CPU, PROTOCOL)
    assert session.rounds == 12 and session.entries_within_3_percent == 75
    assert session.anchor_drift_percent == pytest.approx(25)
    assert session.held_up_percent == pytest.approx(50) and session.noisy


def test_drift_is_the_median_change_of_the_anchors(exact: Built) -> None:
    table, _ = exact
    rows = table.networks[:ANCHORS]
    now = {row.architecture: Measured(1.5 * row.measured_ms, 0, 0) for row in rows}
    assert drift(table, now) == pytest.approx(1.5)
    assert drift(table, {**now, rows[0].architecture: Measured(1e6, 0, 0)}) == pytest.approx(1.5)


def test_anchors_are_the_same_files_in_every_call(exact: Built) -> None:
    table, _ = exact
    first, state = anchor_models(table, FBNET, CPU), torch.random.get_rng_state()
    assert list(first) == [row.architecture for row in table.networks[:ANCHORS]]
    assert anchor_models(table, FBNET, CPU) == first
    assert torch.equal(torch.random.get_rng_state(), state)
