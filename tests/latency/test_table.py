"""A table made by hand: what it predicts, when it refuses, and how it survives the disk."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_space import rough_table

from latency.calibrate import Calibration, Features
from latency.device import Device
from latency.files import write_sealed
from latency.fit import FittedTable
from latency.host import fingerprint
from latency.table import SCHEMA_VERSION, BlockLatency, LatencyTable, NetworkLatency, Quality, Session
from search_spaces.block import Block
from search_spaces.cell_operators import Zero
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.hybrid import HybridSpace
from search_spaces.operators import Classifier, ConvNormReLU, Identity, MBConv
from search_spaces.space import replay

CPU = Device()
STEM, LAYER, HEAD = ConvNormReLU((1, 8, 8), 8, 3, 2), MBConv((8, 4, 4), 8, 3, 1, 3), Classifier((8, 4, 4), 10)
MILLISECONDS: dict[Block, float] = {STEM: 0.5, LAYER: 1.25, HEAD: 0.25}
CALIBRATION = Calibration(slope=0.5, offset_ms=3.0, block_ms=0.0625, switch_share=0.75)
SESSION = Session(
    rounds=20, entries_within_3_percent=90, anchor_drift_percent=-1.25, interval_percent=2, held_up_percent=3,
    noisy=False,
)  # fmt: skip
MIB = 2**20


def entry(ms: float, plain_start: bool = False, plain_end: bool = False) -> BlockLatency:
    return BlockLatency(
        cold_ms=ms, cold_ms_low=ms, cold_ms_high=ms, steady_ms=ms / 2, plain_start=plain_start, plain_end=plain_end
    )


@pytest.fixture
def table() -> LatencyTable:
    network = NetworkLatency(architecture="toy:a", predicted_ms=2.5, measured_ms=2.75)
    return LatencyTable(
        device="cpu",
        quantity="cold_cpu_ms",
        fingerprint=fingerprint(CPU),
        protocol={"rounds": 20, "calls": 2, "seed": 0},
        space="toy",
        input_shape=(1, 8, 8),
        classes=10,
        session_ms=0.125,
        session_steady_ms=0.0625,
        border_ms_per_mib=0.0,
        blocks={block.key: entry(ms) for block, ms in MILLISECONDS.items()},
        calibration=CALIBRATION,
        networks=(network, network),
        quality=Quality.of([1.0, 2.0], [1.0, 2.1]),
        session=SESSION,
    )


def test_prediction_by_hand(table: LatencyTable) -> None:
    # 0.375 + 2 * 1.125 + 0.125 of four blocks; identities and zeros are free.
    blocks = [STEM, LAYER, Identity((8, 4, 4)), Zero((8, 4, 4)), LAYER, HEAD]
    assert table.features(iter(blocks)) == Features(core_ms=2.75, blocks=4, switch_ms=0)
    assert table.predict_ms(iter(blocks)) == 3 + 0.5 * 2.75 + 0.0625 * 4
    assert table.predict_ms([Identity((1, 1, 1))]) == 3.0


def test_borders_by_hand(table: LatencyTable) -> None:
    # Floats between the blocks: 64 image, 128 after the stem (twice), 10 scores. Half of a border is of either block.
    priced = table.model_copy(update={"border_ms_per_mib": 0.25 * MIB})
    found = priced.features([STEM, LAYER, HEAD])
    assert found.core_ms == pytest.approx(1.625 - (64 / 2 + 128 + 128 + 10 / 2))
    assert found.switch_ms == 0
    assert priced.predict_ms([STEM, LAYER, HEAD]) == pytest.approx(CALIBRATION.predict_ms(found))


@pytest.mark.parametrize("batch", ["1", "4"])
def test_borders_grow_with_the_batch(batch: str, table: LatencyTable) -> None:
    priced = table.model_copy(
        update={"border_ms_per_mib": 0.25 * MIB, "fingerprint": {**table.fingerprint, "batch": batch}}
    )
    assert priced.features([STEM]).core_ms == pytest.approx(0.375 - int(batch) * (64 / 2 + 128 / 2))


@pytest.mark.parametrize(
    ("ends", "switches"),
    [
        # Of stem, layer and head: starts and ends on plain NCHW.
        (((False, False), (False, False), (False, False)), 0),
        (((True, True), (True, True), (True, True)), 0),
        (((False, True), (False, False), (False, False)), 1),
        (((False, False), (True, False), (False, False)), 1),
        (((False, False), (True, True), (False, False)), 2),
        (((True, False), (False, False), (False, True)), 0),
        (((False, True), (True, False), (True, False)), 1),
        (((False, True), (False, True), (False, False)), 2),
    ],
)
def test_switches_are_where_neighbours_differ(
    ends: tuple[tuple[bool, bool], ...], switches: int, table: LatencyTable
) -> None:
    blocks = {b.key: entry(ms, *end) for (b, ms), end in zip(MILLISECONDS.items(), ends, strict=True)}
    priced = table.model_copy(update={"border_ms_per_mib": 0.25 * MIB, "blocks": blocks})
    assert priced.features([STEM, LAYER, HEAD]).switch_ms == pytest.approx(128 * switches)
    # What runs nothing stands between no neighbours.
    found = priced.features([STEM, Identity((8, 4, 4)), LAYER, Zero((8, 4, 4)), HEAD])
    assert found.switch_ms == pytest.approx(128 * switches)


def test_missing_blocks_are_named(table: LatencyTable) -> None:
    missing = [MBConv((8, 4, 4), 8, kernel, 1, 3) for kernel in (5, 7, 9, 11)]
    with pytest.raises(InputError) as caught:
        table.predict_ms([STEM, missing[0], missing[0], HEAD])
    assert str(caught.value) == f"the latency table of cpu lacks 1 blocks: {missing[0].key}"
    with pytest.raises(InputError) as caught:
        table.predict_ms(missing)
    assert "lacks 4 blocks" in str(caught.value) and str(caught.value).endswith(", ...")
    assert sum(block.key in str(caught.value) for block in missing) == 3
    assert table.missing([STEM, *missing, missing[0], Identity((3, 9, 9)), HEAD]) == missing
    assert table.missing(MILLISECONDS) == []


@pytest.fixture(scope="module")
def large() -> tuple[FBNetSpace, LatencyTable]:
    """A space and a table in which everything that latency is made of differs from block to block."""
    space, rng = FBNetSpace((3, 32, 32), 10, "imagenet"), np.random.default_rng(0)
    blocks = {}
    for block in space.distinct_blocks():
        if not block.free:
            start, end = rng.random(2) < 0.5
            blocks[block.key] = entry(rng.uniform(0.2, 2), bool(start), bool(end)).model_copy(
                update={"scale": float(rng.uniform(0.8, 1.2))}
            )
    return space, LatencyTable(
        device="cpu", quantity="cold_cpu_ms", fingerprint={**fingerprint(CPU), "batch": "2"}, protocol={},
        space=space.name, input_shape=(3, 32, 32), classes=10, session_ms=0.125, session_steady_ms=0.0625,
        border_ms_per_mib=1.5, scale=1.25,
        blocks=blocks, calibration=CALIBRATION, networks=(), quality=Quality.none(), session=SESSION,
    )  # fmt: skip


def test_rows_of_a_grid_take_what_their_networks_take(large: tuple[FBNetSpace, LatencyTable]) -> None:
    space, table = large
    grid = space.grid()
    rows = np.vstack([
        grid.sample_spread(150, np.random.default_rng(1)),
        grid.mutate(grid.sample_spread(50, np.random.default_rng(2)), np.random.default_rng(3)),
        grid.encode([space.parse(",".join(["skip"] * 22)), *space.named().values()]),
    ])  # fmt: skip
    networks = [space.blocks(replay(space, grid.decisions(row))) for row in rows]
    features = [table.features(blocks) for blocks in networks]
    # Otherwise the comparison would say nothing.
    assert len({f.blocks for f in features}) > 10 and np.std([f.switch_ms for f in features]) > 0
    found = table.predict_grid_ms(grid, rows)
    assert found.shape == (len(rows),)
    assert found == pytest.approx([table.predict_ms(blocks) for blocks in networks], rel=1e-12)
    assert table.predict_grid_ms(grid, rows[:0]).shape == (0,)


def test_rows_of_a_grid_whose_borders_depend_on_widths() -> None:
    space = HybridSpace((1, 28, 28), 10)
    table, grid = rough_table(space), space.grid()
    assert grid is not None
    rows = grid.sample_spread(150, np.random.default_rng(1))
    networks = [space.blocks(replay(space, grid.decisions(row))) for row in rows]
    assert np.std([table.features(blocks).switch_ms for blocks in networks]) > 0
    expected = [table.predict_ms(blocks) for blocks in networks]
    assert table.predict_grid_ms(grid, rows) == pytest.approx(expected, rel=1e-12)


def test_rows_of_a_grid_with_missing_blocks(large: tuple[FBNetSpace, LatencyTable]) -> None:
    space, table = large
    grid = space.grid()
    lost = space.positions()[5][3]
    partial = table.model_copy(update={"blocks": {k: v for k, v in table.blocks.items() if k != lost.key}})
    with pytest.raises(InputError, match="lacks 1 blocks") as caught:
        partial.predict_grid_ms(grid, grid.sample_spread(1, np.random.default_rng(0)))
    assert lost.key in str(caught.value)


def test_a_table_with_more_blocks_extends_another(table: LatencyTable) -> None:
    more = table.model_copy(update={"blocks": {**table.blocks, "new": entry(1.0)}})
    assert more.extends(table) and table.extends(table) and not table.extends(more)
    slower = table.model_copy(update={"blocks": {**table.blocks, HEAD.key: entry(0.5)}})
    assert not slower.extends(table) and not more.extends(slower)
    assert not more.model_copy(update={"session_ms": 0.25}).extends(table)


def test_require_accepts_its_own_device_and_space(table: LatencyTable) -> None:
    table.require(CPU, "toy", (1, 8, 8), 10)


@pytest.mark.parametrize("key", ["device", "cpu", "cores", "system", "runtime", "provider", "threads", "batch"])
@pytest.mark.parametrize("value", ["something else", None])
def test_require_refuses_every_other_fingerprint(key: str, value: str | None, table: LatencyTable) -> None:
    foreign = {k: v for k, v in {**table.fingerprint, key: value}.items() if v is not None}
    with pytest.raises(InputError, match=f"measured elsewhere: its {key} is {value!r}"):
        table.model_copy(update={"fingerprint": foreign}).require(CPU, "toy", (1, 8, 8), 10)


@pytest.mark.parametrize("name", ["cpu:threads=2", "cpu:batch=4", "cpu:int8"])
def test_require_refuses_another_device_of_the_machine(name: str, table: LatencyTable) -> None:
    with pytest.raises(InputError, match=f"its device is 'cpu', here it is '{name}'"):
        table.require(Device.parse(name), "toy", (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("space", "shape", "classes"), [("toy2", (1, 8, 8), 10), ("toy", (1, 8, 9), 10), ("toy", (1, 8, 8), 11)]
)
def test_require_refuses_another_space(
    space: str, shape: tuple[int, int, int], classes: int, table: LatencyTable
) -> None:
    with pytest.raises(InputError, match=r"the latency table is for toy at .* with 10 classes, not for"):
        table.require(CPU, space, shape, classes)


def test_round_trip(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.json")
    loaded = LatencyTable.load(tmp_path / "table.json")
    assert loaded == table
    loaded.require(CPU, "toy", (1, 8, 8), 10)
    assert loaded.predict_ms([STEM, HEAD]) == table.predict_ms([STEM, HEAD])


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
def test_table_of_networks_that_all_cost_the_same_survives_the_disk(table: LatencyTable, tmp_path: Path) -> None:
    changed = table.model_copy(update={"quality": Quality.of([1.0, 1.0], [1.0, 1.0])})
    changed.save(tmp_path / "table.json")
    assert not LatencyTable.load(tmp_path / "table.json").quality.good


def test_damaged_tables(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with pytest.raises(InputError, match="does not exist"):
        LatencyTable.load(path)
    table.save(path)
    path.write_text(path.read_text().replace("1.25", "1.26", 1))
    with pytest.raises(InputError, match="checksum"):
        LatencyTable.load(path)
    body = {"kind": "measured", **table.model_dump(mode="json")}
    for changed in (
        {**body, "extra": 1},
        {k: v for k, v in body.items() if k != "calibration"},
        {**body, "session_ms": "x"},
        {**body, "calibration": {**body["calibration"], "extra": 1}},
    ):
        write_sealed(path, SCHEMA_VERSION, changed)
        with pytest.raises(InputError, match="is damaged: "):
            LatencyTable.load(path)


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION + 1])
def test_tables_of_other_versions_are_refused(version: int, table: LatencyTable, tmp_path: Path) -> None:
    write_sealed(tmp_path / "table.json", version, {"kind": "measured", **table.model_dump(mode="json")})
    with pytest.raises(InputError, match=rf"has schema version {version}; this version reads {SCHEMA_VERSION}"):
        LatencyTable.load(tmp_path / "table.json")


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    fitted = FittedTable(
        device="phone", space="toy", input_shape=(1, 8, 8), classes=10, timings=30, left_out=0, pruned=False,
        offset_ms=0.0, block_ms={}, quality=Quality.none(),
    )  # fmt: skip
    fitted.save(path)
    with pytest.raises(InputError, match=r"was fitted to timings; a measured table is needed here: `nas table build`"):
        LatencyTable.load(path)
    write_sealed(path, SCHEMA_VERSION, {"space": "toy"})
    with pytest.raises(InputError, match=r"is no measured latency table: `nas table build` makes one"):
        LatencyTable.load(path)
    for text in ("[]", '{"kind": "measured"}'):
        path.write_text(text)
        with pytest.raises(InputError, match="is not a latency table"):
            LatencyTable.load(path)


def test_saved_table_is_plain_json(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.json")
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["blocks"][LAYER.key]["cold_ms"] == 1.25
    assert content["kind"] == "measured" and content["calibration"]["slope"] == 0.5


def test_quality_by_hand() -> None:
    quality = Quality.of([1.04, 1.92, 3.0, 4.8], [1.0, 2.0, 4.0, 4.0])
    assert quality.networks == 4
    assert quality.mape_percent == pytest.approx(100 * (0.04 + 0.04 + 0.25 + 0.2) / 4)
    assert (quality.within_5_percent, quality.within_10_percent) == (50, 50)
    # Ranks 1 2 3 4 against 1 2 3.5 3.5: covariance 1.125 of sqrt(1.25 * 1.125); five pairs agree and one is tied.
    assert quality.spearman == pytest.approx(1.125 / (1.25 * 1.125) ** 0.5)
    assert quality.kendall == pytest.approx(5 / (6 * 5) ** 0.5)


def test_quality_in_words() -> None:
    quality = Quality.of([1.04, 1.92, 3.0, 4.8], [1.0, 2.0, 4.0, 4.0])
    assert quality.text() == "error 13.2 % on 4 unseen networks, 50 % of them within 10 %, Kendall tau 0.91"
    assert quality.lines() == {
        "networks": "4",
        "mean absolute error": "13.2 %",
        "within 5 % / 10 %": "50 % / 50 %",
        "Spearman / Kendall": "0.95 / 0.91",
    }


@pytest.mark.parametrize(("noisy", "word"), [(False, "quiet"), (True, "noisy")])
def test_steadiness_in_words(noisy: bool, word: str) -> None:
    assert SESSION.model_copy(update={"noisy": noisy}).lines() == {
        "host while measuring": word,
        "rounds": "20",
        "90 % interval of a block": "+-2.0 %",
        "blocks within 3 % between both halves": "90 %",
        "anchor's drift between them": "-1.2 %",
        "calls held up": "3 %",
    }


@pytest.mark.parametrize(
    ("predicted", "good"),
    [([1.0, 2.0, 3.0, 4.0], True), ([1.2, 2.4, 3.6, 4.8], False), ([1.9, 1.8, 3.0, 4.0], False)],
)
def test_good_tables_are_near_and_in_order(predicted: list[float], good: bool) -> None:
    assert Quality.of(predicted, [1.0, 2.0, 3.0, 4.0]).good is good


def test_what_was_not_compared_is_not_good() -> None:
    assert not Quality.none().good and np.isfinite(list(Quality.none().model_dump().values())).all()
