"""Three kinds of sources say the same of the same architectures, and draw the same again."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import made_up_table
from numpy.typing import NDArray
from toy_space import ToySpace

from nas.search import candidates
from nas.search.candidates import Architectures, Batch, Drawn, Listed, Rows, source_of
from nas.search.target import TableTarget
from predictors.features import feature_matrix
from search_spaces.architecture import Architecture
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.hybrid import HybridSpace
from search_spaces.nb201 import NB201Space
from search_spaces.space import SearchSpace, enumerate_architectures, replay, sample

SPACE = FBNetSpace((3, 32, 32), 10, "imagenet")  # with layers whose order does not matter
TOY = ToySpace((1, 8, 8), 10)
DEVICES = (TableTarget(SPACE, made_up_table(SPACE), None), TableTarget(SPACE, made_up_table(SPACE, "board"), 1.0))


def latencies(architectures: Sequence[Architecture]) -> NDArray:
    return np.array([[t.predict_ms(a) for t in DEVICES] for a in architectures]).reshape(-1, 2)


def toy_latencies(architectures: Sequence[Architecture]) -> NDArray:
    return np.array([[TOY.macs(a) / 1e5] for a in architectures])


def rows() -> Rows:
    grid = SPACE.grid()
    assert grid is not None
    return Rows(SPACE, grid, lambda r: np.column_stack([t.predict_grid_ms(grid, r) for t in DEVICES]))


SOURCES: dict[str, tuple[SearchSpace, Architectures]] = {
    "listed": (TOY, Listed(TOY, list(enumerate_architectures(TOY)), toy_latencies)),
    "rows": (SPACE, rows()),
    "drawn": (SPACE, Drawn(SPACE, latencies)),
    "drawn toy": (TOY, Drawn(TOY, toy_latencies)),
}


@pytest.fixture(params=SOURCES)
def both(request: pytest.FixtureRequest) -> tuple[SearchSpace, Architectures]:
    return SOURCES[request.param]


def drawn(space: SearchSpace, count: int) -> list[Architecture]:
    rng = np.random.default_rng(0)
    return [sample(space, rng) for _ in range(count)]


def unpacked(source: Architectures, batch: Batch) -> list[Architecture]:
    return [source.architecture(batch[i : i + 1]) for i in range(len(batch))]


def same(first: Batch, other: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(other).values(), strict=True))


def test_sources_agree_on_architectures(both: tuple[SearchSpace, Architectures]) -> None:
    space, source = both
    given = drawn(space, 40)
    batch = source.of(given)
    assert len(batch) == 40 and unpacked(source, batch) == given
    assert batch.X == pytest.approx(feature_matrix(space, given), rel=1e-12)
    expected = latencies(given) if space is SPACE else toy_latencies(given)
    assert batch.ms == pytest.approx(expected, rel=1e-9)


def test_keys_are_equal_for_equal_architectures_alone(both: tuple[SearchSpace, Architectures]) -> None:
    space, source = both
    given = drawn(space, 30) * 2 + space.baseline_family()
    keys = source.of(given).keys
    for i, one in enumerate(given):
        assert [bool(k) for k in keys == keys[i]] == [one == other for other in given]
    # They stay so from batch to batch, however it was made.
    assert np.array_equal(source.of(given[::-1]).keys, keys[::-1])
    batch = source.draw(np.random.default_rng(0))[:50]
    assert np.array_equal(source.of(unpacked(source, batch)).keys, batch.keys)
    assert np.isin(source.of([]).keys, keys).shape == (0,)


def test_nothing_is_a_batch_too(both: tuple[SearchSpace, Architectures]) -> None:
    space, source = both
    some, nothing = source.of(drawn(space, 3)), source.of([])
    assert len(nothing) == 0
    if nothing.X.ndim == 2:
        assert same(some + nothing[:0], some) and nothing.X.shape[1] == some.X.shape[1]


def test_batches_are_cut_and_joined(both: tuple[SearchSpace, Architectures]) -> None:
    space, source = both
    given = drawn(space, 9)
    batch = source.of(given)
    assert same(batch[:4] + batch[4:], batch)
    assert same(batch[np.array([8, 0])], source.of([given[8], given[0]]))
    assert same(batch[np.arange(9) % 2 == 0], source.of(given[::2]))


def test_draws_follow_from_the_generator(both: tuple[SearchSpace, Architectures]) -> None:
    _, source = both
    first, again, other = (source.draw(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert same(first, again) and not np.array_equal(first.keys, other.keys)
    children = [source.vary(first[:20], np.random.default_rng(seed)) for seed in (2, 2)]
    assert same(*children)


def test_draws_are_canonical(both: tuple[SearchSpace, Architectures]) -> None:
    space, source = both
    batch = source.draw(np.random.default_rng(0))
    for part in (batch[:80], source.vary(batch[:20], np.random.default_rng(1))[:80]):
        for architecture in unpacked(source, part):
            assert replay(space, dict(architecture.decisions)) == architecture
        assert part.X == pytest.approx(feature_matrix(space, unpacked(source, part)).reshape(part.X.shape), rel=1e-12)


@pytest.mark.parametrize("name", ["rows", "drawn"])
def test_children_resemble_their_parents(name: str) -> None:
    space, source = SOURCES[name]
    parents = source.of(drawn(space, 2))
    mother, father = (dict(a.decisions) for a in drawn(space, 2))
    children = unpacked(source, source.vary(parents, np.random.default_rng(0))[:200])
    kept = [
        np.mean([option in (mother[layer], father[layer]) for layer, option in child.decisions]) for child in children
    ]
    assert np.mean(kept) > 0.8
    assert sum(child in drawn(space, 2) for child in children) < 20  # a mutation may be undone by the canonical form
    alone = [sum(o != mother[n] for n, o in child.decisions) for child in children]
    both = [sum(o != father[n] for n, o in child.decisions) for child in children]
    assert sum(min(pair) <= 3 for pair in zip(alone, both, strict=True)) > 50  # children of one parent
    assert sum(min(pair) >= 5 for pair in zip(alone, both, strict=True)) > 50  # children of two


def test_listed_space_is_drawn_whole() -> None:
    _, source = SOURCES["listed"]
    batch = source.draw(np.random.default_rng(0))
    every = list(enumerate_architectures(TOY))
    assert len(batch) == 21 and set(unpacked(source, batch)) == set(every)
    assert unpacked(source, batch) != every
    assert len(source.vary(batch, np.random.default_rng(0))) == 0


def test_sizes_of_draws() -> None:
    rng = np.random.default_rng(0)
    for name, draw, children in (
        ("rows", candidates.ROWS, candidates.ROW_CHILDREN), ("drawn", candidates.DRAWN, candidates.CHILDREN),
    ):  # fmt: skip
        batch = SOURCES[name][1].draw(rng)
        assert (len(batch), len(SOURCES[name][1].vary(batch[:5], rng))) == (draw, children)
        assert batch.ms.shape == (draw, 2)


def source_for(space: SearchSpace, with_rows: bool = True) -> Architectures:
    grid_latency = (lambda grid, r: grid.total(r, lambda block: block.macs / 1e6)) if with_rows else None
    return source_of(space, [lambda a: space.macs(a) / 1e6], [grid_latency])


def test_source_suits_the_space() -> None:
    small = FBNetSpace((1, 8, 8), 10)
    assert type(source_for(TOY)) is Listed
    assert type(source_for(small)) is Rows
    assert type(source_for(small, with_rows=False)) is Drawn
    assert type(source_for(FBNetV2Space((3, 32, 32), 10))) is Drawn
    assert type(source_for(HybridSpace((3, 32, 32), 10))) is Rows
    assert type(source_for(HybridSpace((3, 32, 32), 10, "fabric-28"))) is Drawn
    given = drawn(small, 10)
    expected = [[small.macs(a) / 1e6] for a in given]
    for with_rows in (True, False):
        assert source_for(small, with_rows).of(given).ms == pytest.approx(np.array(expected))


def test_one_device_without_rows_makes_all_go_one_by_one() -> None:
    predict = [t.predict_ms for t in DEVICES]
    assert type(source_of(SPACE, predict, [DEVICES[0].predict_grid_ms, None])) is Drawn
    assert type(source_of(SPACE, predict, [t.predict_grid_ms for t in DEVICES])) is Rows


def test_cells_are_listed() -> None:
    space = NB201Space((3, 32, 32), 10)
    source = source_of(space, [], [])
    batch = source.draw(np.random.default_rng(0))
    assert type(source) is Listed and len(batch) == len(set(batch.keys.tolist())) == 5425
    best = space.named()["cifar10_best"]
    assert source.architecture(source.of([best])) == best


@pytest.mark.parametrize("space", [TOY, FBNetSpace((1, 8, 8), 10)], ids=lambda space: space.name)
def test_spaces_without_a_device(space: SearchSpace) -> None:
    source = source_of(space, [], [])
    assert source.draw(np.random.default_rng(0)).ms.shape[1] == source.of([]).ms.shape[1] == 0


DRAWS = """
import hashlib
import numpy as np
from nas.search.candidates import source_of
from search_spaces.fbnet import FBNetSpace
space, rng = FBNetSpace((1, 8, 8), 10), np.random.default_rng(3)
source = source_of(space, [space.macs], [lambda grid, rows: grid.total(rows, lambda block: block.macs)])
batch = source.draw(rng)
found = hashlib.sha256((batch + source.vary(batch[:9], rng)).rows.tobytes()).hexdigest()
"""


def test_same_draws_in_another_process() -> None:
    here: dict[str, str] = {}
    exec(DRAWS, here)
    repository = Path(__file__).resolve().parents[3]
    environment = {"PYTHONPATH": str(repository), "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRAWS + "print(found)"]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert output.strip() == here["found"]
