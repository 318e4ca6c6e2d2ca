"""Dynamic programming finds what trying every network finds, at each latency."""

from itertools import product

import numpy as np
import pytest
from fakes import made_up_table
from tiny_space import TinySpace, rough_table

from latency.table import LatencyTable
from nas.search.additive import BUDGETS, best_within, lowest_losses
from nas.search.target import TableTarget
from search_spaces.block import Block
from search_spaces.stages import Path, cut, paths

SPACE = TinySpace()
CHAIN = SPACE.chain()
assert CHAIN is not None
STAGES, HEAD = cut(CHAIN)
PARTS = [*STAGES, HEAD]


def made_up_losses(seed: int) -> list[dict[Path, float]]:
    """Return losses in [-4, 4] that fall with the cost of a path, as far as chance lets them; the head has none."""
    rng = np.random.default_rng(seed)
    found = []
    for stage in STAGES:
        listed = paths(SPACE, stage, 1000, 0)
        found.append({path: float(rng.uniform(-4, 4) - 2 * sum(path) / 27) for path in listed})
    return [*found, {(0,) * len(HEAD.positions): 0.0}]


def every_network(losses: list[dict[Path, float]], table: LatencyTable) -> list[tuple[float, float]]:
    """Return the latency (ms) and the sum of losses of each combination of paths."""
    found = []
    for combination in product(*(each.items() for each in losses)):
        blocks: list[Block] = []
        for stage, (path, _) in zip(PARTS, combination, strict=True):
            blocks += stage.blocks(path, blocks[-1].out_shape if blocks else SPACE.input_shape)
        found.append((table.predict_ms(blocks), sum(loss for _, loss in combination)))
    return found


@pytest.mark.parametrize("table", [made_up_table(SPACE), rough_table(SPACE)], ids=["additive", "rough"])
@pytest.mark.parametrize("seed", range(3))
def test_front_is_that_of_all_networks(table: LatencyTable, seed: int) -> None:
    losses = made_up_losses(seed)
    everything = every_network(losses, table)
    front = lowest_losses(SPACE, PARTS, losses, table.predict_ms)
    assert len(everything) == 2 * 8 * 73 and len(front) > 2
    for architecture, ms, loss in front:
        assert loss == pytest.approx(min(sum_ for other, sum_ in everything if other <= ms + 1e-9))
        assert table.predict_ms(SPACE.blocks(architecture)) == pytest.approx(ms)
    # Between two steps of the front nothing is better, beyond its ends there is nothing.
    steps = np.array([[ms, loss] for _, ms, loss in front])
    assert (np.diff(steps[:, 0]) > 0).all() and (np.diff(steps[:, 1]) < 0).all()
    assert steps[0, 0] == pytest.approx(min(everything)[0])
    assert steps[-1, 1] == pytest.approx(min(loss for _, loss in everything))
    for budget_ms in np.linspace(steps[0, 0], 1.2 * steps[-1, 0], 50) + 1e-9:
        best = min(loss for ms, loss in everything if ms <= budget_ms)
        assert steps[steps[:, 0] <= budget_ms][-1, 1] == pytest.approx(best)


@pytest.mark.parametrize("resolution_ms", [0.001, 0.01])
def test_what_a_resolution_costs(resolution_ms: float) -> None:
    losses, table = made_up_losses(0), rough_table(SPACE)
    everything = every_network(losses, table)
    front = lowest_losses(SPACE, PARTS, losses, table.predict_ms, resolution_ms)
    for architecture, ms, _ in front:
        assert table.predict_ms(SPACE.blocks(architecture)) == pytest.approx(ms)  # never rounded
    for budget_ms in np.linspace(0.08, 0.2, 30):
        found = [loss for _, ms, loss in front if ms <= budget_ms]
        surely = [loss for ms, loss in everything if ms <= budget_ms - len(PARTS) * resolution_ms]
        assert not surely or found[-1] <= min(surely) + 1e-9


def test_best_within_the_budgets_of_every_device() -> None:
    losses, tables = made_up_losses(0), [made_up_table(SPACE), rough_table(SPACE)]
    alone = [best_within(SPACE, PARTS, losses, [TableTarget(SPACE, table, None)], 0) for table in tables]
    assert all(1 < len(found) <= BUDGETS for found in alone)
    slowest = max(tables[0].predict_ms(SPACE.blocks(a)) for a in alone[0])
    targets = [TableTarget(SPACE, tables[0], 0.9 * slowest), TableTarget(SPACE, tables[1], None)]
    both = best_within(SPACE, PARTS, losses, targets, 0)
    assert both and all(targets[0].predict_ms(architecture) <= 0.9 * slowest for architecture in both)
    assert both == best_within(SPACE, PARTS, losses, targets, 0)
