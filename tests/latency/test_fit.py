"""Tables fitted to timings: synthetic additive devices are recovered, real ones predicted, bad files refused."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes import made_up_table
from toy_space import ToySpace

from latency.files import write_sealed
from latency.fit import SCHEMA_VERSION, FittedTable, Timing, as_written, fit_timings, load_table, read_timings
from latency.table import LatencyTable
from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.nb201 import NB201Space
from search_spaces.operators import Identity
from search_spaces.space import SearchSpace, sample

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data" / "nas"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}")

FBNET = FBNetSpace((1, 8, 8), 10)
NB201 = NB201Space((3, 8, 8), 10)


def additive(seed: int) -> Callable[[Block], float]:
    """Return a device: the cost (ms) of a block is near what MACs and bytes say, by a factor of its own."""

    def cost(block: Block) -> float:
        if isinstance(block, Identity):
            return 0.0
        own = np.random.default_rng([seed, *block.key.encode()]).uniform(0.5, 2)
        return float(own * (0.01 + 1e-7 * block.macs + 1e-6 * np.prod(block.in_shape)))

    return cost


def draw(space: SearchSpace, count: int, seed: int = 0) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    found: dict[Architecture, None] = {}
    while len(found) < count:
        found[sample(space, rng)] = None
    return list(found)


def times(space: SearchSpace, networks: list[Architecture], cost: Callable[[Block], float]) -> list[float]:
    return [0.3 + sum(cost(block) for block in space.blocks(network)) for network in networks]


@pytest.fixture(scope="module")
def fitted() -> FittedTable:
    networks = draw(FBNET, 60)
    return fit_timings(FBNET, networks, times(FBNET, networks, additive(0)), "made-up")


@pytest.mark.parametrize("space", [FBNET, NB201], ids=lambda space: space.name)
def test_additive_device_is_recovered(space: SearchSpace) -> None:
    networks = draw(space, 500)
    known, others = networks[:300], networks[300:]
    ms = np.array(times(space, others, additive(1)))
    table = fit_timings(space, known, times(space, known, additive(1)), "made-up")
    predicted = np.array([table.predict_ms(space.blocks(network)) for network in others])
    assert np.abs(predicted / ms - 1).max() < 0.02
    assert table.quality.mape_percent < 1 and table.quality.spearman > 0.99
    assert (table.timings, table.left_out, table.pruned) == (300, 0, False)


def test_few_timings_are_better_used_with_the_prior() -> None:
    networks = draw(FBNET, 230)
    known, others = networks[:30], networks[30:]
    ms = np.array(times(FBNET, networks, additive(2)))
    table = fit_timings(FBNET, known, ms[:30].tolist(), "made-up")
    errors = np.abs([table.predict_ms(FBNET.blocks(network)) for network in others] / ms[30:] - 1)
    blocks = [block.key for block in FBNET.distinct_blocks()]
    counts = np.array([[[b.key for b in FBNET.blocks(n)].count(key) for key in blocks] for n in networks])
    plain = counts[30:] @ np.linalg.lstsq(counts[:30], ms[:30], rcond=None)[0]
    assert errors.mean() < 0.6 * np.abs(plain / ms[30:] - 1).mean()


def test_every_block_has_a_cost_and_none_is_negative(fitted: FittedTable) -> None:
    assert set(fitted.block_ms) == {b.key for b in FBNET.distinct_blocks() if not isinstance(b, Identity)}
    assert min(fitted.block_ms.values()) >= 0 and fitted.offset_ms >= 0


def test_prediction_is_offset_and_sum(fitted: FittedTable) -> None:
    blocks = FBNET.blocks(FBNET.parse(",".join(["skip"] * 8)))
    expected = sum(fitted.block_ms[block.key] for block in blocks if not isinstance(block, Identity))
    assert fitted.predict_ms(iter(blocks)) == pytest.approx(fitted.offset_ms + expected)
    assert fitted.predict_ms([Identity((1, 1, 1))]) == fitted.offset_ms


def test_unknown_blocks_are_named(fitted: FittedTable) -> None:
    with pytest.raises(InputError, match=r"made-up lacks .* blocks: "):
        fitted.predict_ms(NB201.blocks(NB201.parse("resnet")))


def test_same_seed_same_table(fitted: FittedTable) -> None:
    networks = draw(FBNET, 60)
    ms = times(FBNET, networks, additive(0))
    assert fit_timings(FBNET, networks, ms, "made-up") == fitted


def test_quality_is_that_of_networks_that_the_fit_did_not_see() -> None:
    networks = draw(FBNET, 40)
    noise = np.random.default_rng(3).uniform(1, 10, 40)
    table = fit_timings(FBNET, networks, noise.tolist(), "noise")
    assert table.quality.networks == 40 and not table.quality.good
    assert abs(table.quality.spearman) < 0.6


def test_outliers_do_little() -> None:
    networks = draw(FBNET, 160)
    clean = np.array(times(FBNET, networks, additive(4)))
    ms = clean.copy()
    ms[:100:20] *= 3
    ms[1] = 1e-3
    table = fit_timings(FBNET, networks[:100], ms[:100].tolist(), "made-up")
    assert (table.timings, table.left_out) == (99, 1)
    errors = np.abs([table.predict_ms(FBNET.blocks(network)) for network in networks[100:]] / clean[100:] - 1)
    assert errors.mean() < 0.06


def test_repeated_networks_are_averaged() -> None:
    networks = draw(FBNET, 30)
    ms = times(FBNET, networks, additive(5))
    twice = fit_timings(FBNET, networks * 2, [0.9 * each for each in ms] + [1.1 * each for each in ms], "made-up")
    once = fit_timings(FBNET, networks, ms, "made-up")
    assert twice.timings == once.timings == 30
    assert twice.block_ms == pytest.approx(once.block_ms, abs=1e-9)


@pytest.mark.parametrize("prunes", [True, False])
def test_whether_unused_parts_run_is_found_out(prunes: bool) -> None:
    rng = np.random.default_rng(6)
    texts = [",".join(rng.choice(["none", "skip_connect", "nor_conv_3x3", "avg_pool_3x3"], 6)) for _ in range(100)]
    written = [NB201.as_written(text) for text in texts]
    ran = [NB201.pruned(a) for a in written] if prunes else written
    table = fit_timings(NB201, written, times(NB201, ran, additive(6)), "made-up")
    assert table.pruned is prunes
    network = NB201.as_written("nor_conv_3x3,none,none,skip_connect,none,none")
    kept = NB201.blocks(NB201.pruned(network) if prunes else network)
    assert table.predict_written_ms(NB201, network) == pytest.approx(table.predict_ms(kept))


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_networks(count: int) -> None:
    networks = draw(FBNET, count) if count else []
    with pytest.raises(InputError, match=f"10 networks or more, got {count}"):
        fit_timings(FBNET, networks * 3, [1.0] * 3 * count, "made-up")


def test_round_trip(fitted: FittedTable, tmp_path: Path) -> None:
    fitted.save(tmp_path / "table.json")
    assert FittedTable.load(tmp_path / "table.json") == fitted == load_table(tmp_path / "table.json")


def test_damaged_tables(fitted: FittedTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with pytest.raises(InputError, match="does not exist"):
        FittedTable.load(path)
    fitted.save(path)
    path.write_text(path.read_text().replace("made-up", "made-UP", 1))
    with pytest.raises(InputError, match="checksum"):
        load_table(path)
    body = fitted.model_dump(mode="json")
    for changed in ({**body, "extra": 1}, {**body, "offset_ms": "x"}):
        write_sealed(path, SCHEMA_VERSION, changed)
        with pytest.raises(InputError, match="is damaged: "):
            load_table(path)
    write_sealed(path, SCHEMA_VERSION + 1, body)
    with pytest.raises(InputError, match="schema version"):
        load_table(path)


def test_measured_tables_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    made_up_table(FBNET).save(path)
    assert isinstance(load_table(path), LatencyTable)
    with pytest.raises(InputError, match="is not a fitted table"):
        FittedTable.load(path)
    with pytest.raises(InputError, match="does not exist"):
        load_table(tmp_path / "nowhere.json")
    path.write_text("[]")
    with pytest.raises(InputError, match="is not a latency table"):
        load_table(path)


def test_reading_timings(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('\ufeffnote,architecture,ms\nx,"toy:yes,k3,no",1.5\ny,smallest,2e-1\n', "utf-8")
    timings = read_timings(path)
    assert timings == [Timing(2, "toy:yes,k3,no", 1.5), Timing(3, "smallest", 0.2)]
    space = ToySpace()
    assert as_written(space, path, timings) == [space.parse("yes,k3,no"), space.parse("smallest")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe\x00", "no CSV text"),
        (b"", "lack the column 'architecture'"),
        (b"architecture,latency\na,1\n", "lack the column 'ms'"),
        (b"architecture,ms\na,1\nb,0\n", "line 3: ms must be a positive number, got '0'"),
        (b"architecture,ms\na,-1\n", "line 2: .* got '-1'"),
        (b"architecture,ms\na,fast\n", "line 2: .* got 'fast'"),
        (b"architecture,ms\na,nan\n", "line 2: .* got 'nan'"),
        (b"architecture,ms\na,inf\n", "line 2: .* got 'inf'"),
        (b"architecture,ms\na\n", "line 2: .* got ''"),
    ],
)
def test_bad_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_timings(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["yes,k7,no", "", "nothing", "elsewhere:yes,k3,no"])
def test_unknown_architectures(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t\.csv, line 7: "):
        as_written(ToySpace(), tmp_path / "t.csv", [Timing(6, "smallest", 1.0), Timing(7, text, 1.0)])


@needs_data
@pytest.mark.parametrize(("device", "least"), [("gold_6226", 0.98), ("raspi4", 0.89), ("pixel3", 0.89)])
def test_real_devices(device: str, least: float) -> None:
    space = NB201Space((3, 32, 32), 10)
    with gzip.open(DATA / "nb201_accuracy.csv.gz", "rt") as file:
        texts = {row["idx"]: row["arch"] for row in csv.DictReader(file)}
    with gzip.open(DATA / "nb201_latency_ms.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    chosen = np.random.default_rng(0).choice(len(rows), 1100, replace=False)
    networks = [space.as_written(texts[rows[i]["idx"]]) for i in chosen]
    ms = [float(rows[i][device]) for i in chosen]
    table = fit_timings(space, networks[:100], ms[:100], device)
    predicted = [table.predict_written_ms(space, network) for network in networks[100:]]
    assert np.corrcoef(np.argsort(np.argsort(predicted)), np.argsort(np.argsort(ms[100:])))[0, 1] > least
