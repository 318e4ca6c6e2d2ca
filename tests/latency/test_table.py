"""A table made by hand: what it predicts, when it refuses, and how it survives the disk."""

import json
from pathlib import Path

import pytest

from latency.device import DEVICES
from latency.files import write_sealed
from latency.table import SCHEMA_VERSION, BlockLatency, LatencyTable, NetworkLatency, Quality
from search_spaces.block import Block
from search_spaces.errors import InputError
from search_spaces.operators import Classifier, ConvNormReLU, Identity, MBConv

CPU = DEVICES["cpu"]
STEM, LAYER, HEAD = ConvNormReLU((1, 8, 8), 8, 3, 2), MBConv((8, 4, 4), 8, 3, 1, 3), Classifier((8, 4, 4), 10)
MILLISECONDS: dict[Block, float] = {STEM: 0.5, LAYER: 1.25, HEAD: 0.25}


@pytest.fixture
def table() -> LatencyTable:
    network = NetworkLatency(architecture="toy:a", sum_ms=2.0, predicted_ms=2.5, measured_ms=2.75)
    return LatencyTable(
        device="cpu",
        fingerprint=CPU.fingerprint(),
        protocol={"rounds": 20, "calls": 3, "seed": 0},
        space="toy",
        input_shape=(1, 8, 8),
        classes=10,
        session_ms=0.125,
        blocks={
            block.key: BlockLatency(cold_ms=ms, cold_ms_low=ms, cold_ms_high=ms, steady_ms=ms / 2)
            for block, ms in MILLISECONDS.items()
        },
        slope=0.5,
        offset_ms=3.0,
        calibration=(network,),
        held_out=(network, network),
        quality=Quality.of([1.0, 2.0], [1.0, 2.1]),
    )


def test_prediction_by_hand(table: LatencyTable) -> None:
    # 0.375 + 2 * 1.125 + 0.125, then 3 + 0.5 of it; identities are free.
    blocks = [STEM, LAYER, Identity((8, 4, 4)), LAYER, HEAD]
    assert table.sum_ms(blocks) == pytest.approx(2.75, abs=1e-12)
    assert table.predict_ms(iter(blocks)) == pytest.approx(4.375, abs=1e-12)
    assert table.predict_ms([Identity((1, 1, 1))]) == 3.0


def test_missing_blocks_are_named(table: LatencyTable) -> None:
    missing = [MBConv((8, 4, 4), 8, kernel, 1, 3) for kernel in (5, 7, 9, 11)]
    with pytest.raises(InputError) as caught:
        table.predict_ms([STEM, missing[0], missing[0], HEAD])
    assert str(caught.value) == f"the latency table of cpu lacks 1 blocks: {missing[0].key}"
    with pytest.raises(InputError) as caught:
        table.predict_ms(missing)
    assert "lacks 4 blocks" in str(caught.value) and str(caught.value).endswith(", ...")
    assert sum(block.key in str(caught.value) for block in missing) == 3


def test_require_accepts_its_own_device_and_space(table: LatencyTable) -> None:
    table.require(CPU, "toy", (1, 8, 8), 10)


@pytest.mark.parametrize("key", [*CPU.fingerprint()])
@pytest.mark.parametrize("value", ["something else", None])
def test_require_refuses_every_other_fingerprint(key: str, value: str | None, table: LatencyTable) -> None:
    fingerprint = {k: v for k, v in {**CPU.fingerprint(), key: value}.items() if v is not None}
    with pytest.raises(InputError, match=f"measured elsewhere: its {key} is {value!r}"):
        table.model_copy(update={"fingerprint": fingerprint}).require(CPU, "toy", (1, 8, 8), 10)


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
    body = table.model_dump(mode="json")
    for changed in (
        {**body, "extra": 1},
        {k: v for k, v in body.items() if k != "slope"},
        {**body, "slope": "x"},
    ):
        write_sealed(path, SCHEMA_VERSION, changed)
        with pytest.raises(InputError, match="is damaged: "):
            LatencyTable.load(path)
    write_sealed(path, SCHEMA_VERSION + 1, body)
    with pytest.raises(InputError, match="schema version"):
        LatencyTable.load(path)


def test_saved_table_is_plain_json(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.json")
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["blocks"][LAYER.key]["cold_ms"] == 1.25


def test_quality_by_hand() -> None:
    quality = Quality.of([1.04, 1.92, 3.0, 4.8], [1.0, 2.0, 4.0, 4.0])
    assert quality.networks == 4
    assert quality.mape_percent == pytest.approx(100 * (0.04 + 0.04 + 0.25 + 0.2) / 4)
    assert (quality.within_5_percent, quality.within_10_percent) == (50, 50)
    # Ranks 1 2 3 4 against 1 2 3.5 3.5: covariance 1.125 of sqrt(1.25 * 1.125); five pairs agree and one is tied.
    assert quality.spearman == pytest.approx(1.125 / (1.25 * 1.125) ** 0.5)
    assert quality.kendall == pytest.approx(5 / (6 * 5) ** 0.5)


@pytest.mark.parametrize(
    ("predicted", "good"),
    [([1.0, 2.0, 3.0, 4.0], True), ([1.2, 2.4, 3.6, 4.8], False), ([1.9, 1.8, 3.0, 4.0], False)],
)
def test_good_tables_are_near_and_in_order(predicted: list[float], good: bool) -> None:
    assert Quality.of(predicted, [1.0, 2.0, 3.0, 4.0]).good is good
