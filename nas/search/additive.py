"""The networks of the lowest sum of losses at every latency, by dynamic programming over the stages of a chain.

Losses of a block-wise supernet add up over stages, and so do the latencies of a table: what a block adds depends on
itself and on the block before it alone. The best networks within budgets are therefore found without rating any
(BossNAS, ICCV 2021, arXiv 2103.12424, searches for the lowest sum in the same way).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from nas.search.baselines import keeps, latency_range
from nas.search.target import TableTarget
from search_spaces.architecture import Architecture
from search_spaces.block import Block, Shape
from search_spaces.space import SearchSpace, replay
from search_spaces.stages import Path, Stage

BUDGETS = 4
"""As many budgets, evenly spaced in log latency, have their best network proposed."""
_RESOLUTION = 1e-3

_State = tuple[Shape, Block | None]
"""What comes out, and the last block that runs, on which the latency of the next one depends."""


@dataclass(frozen=True)
class _Labels:
    """Partial networks in order of latency: ``ms`` and ``loss`` so far (n,), ``paths`` by number (n, stages so far)."""

    ms: NDArray
    loss: NDArray
    paths: NDArray

    def extended(self, ms: NDArray, loss: NDArray) -> "_Labels":
        """Return every label followed by each of the paths, which add ``ms`` and ``loss`` (paths,)."""
        count = len(self.ms)
        return _Labels(
            np.add.outer(self.ms, ms).ravel(),
            np.add.outer(self.loss, loss).ravel(),
            np.column_stack([np.repeat(self.paths, len(ms), axis=0), np.tile(np.arange(len(ms)), count)]),
        )

    def with_(self, other: "_Labels") -> "_Labels":
        """Return the labels of both."""
        both = ((getattr(self, name), getattr(other, name)) for name in ("ms", "loss", "paths"))
        return _Labels(*map(np.concatenate, both))

    def thinned(self, resolution_ms: float) -> "_Labels":
        """Return the labels that are faster or better than all others, the best one in each ``resolution_ms``."""
        order = np.lexsort((self.loss, self.ms))
        kept = order[self.loss[order] < np.minimum.accumulate(np.append(np.inf, self.loss[order]))[:-1]]
        if resolution_ms:
            numbers = np.floor(self.ms[kept] / resolution_ms)
            kept = kept[np.append(numbers[1:] != numbers[:-1], True)]
        return _Labels(self.ms[kept], self.loss[kept], self.paths[kept])


def lowest_losses(
    space: SearchSpace,
    stages: Sequence[Stage],
    losses: Sequence[Mapping[Path, float]],
    predict_ms: Callable[[Sequence[Block]], float],
    resolution_ms: float = 0.0,
) -> list[tuple[Architecture, float, float]]:
    """Return the networks that are faster or of a lower sum of losses than all others: latency (ms) and sum of each.

    Exact among networks of the given paths at a resolution of 0. Else the best network within a budget has a sum no
    higher than that of any network ``len(stages) * resolution_ms`` faster than the budget; latencies stay exact.

    Args:
        space: its chain consists of the stages.
        stages: all of the chain, the head among them.
        losses: of the paths of each stage.
        predict_ms: a latency to which each block adds what depends on itself and the block before it.
        resolution_ms: of partial networks so near in latency only the best is kept.
    """
    added = cache(lambda last, blocks: predict_ms([*last, *blocks]) - predict_ms(last))
    start = _Labels(np.array([predict_ms([])]), np.zeros(1), np.empty((1, 0), np.int16))
    states: dict[_State, _Labels] = {(space.input_shape, None): start}
    for stage, found in zip(stages, losses, strict=True):
        reached: dict[_State, _Labels] = {}
        for (shape, last), labels in states.items():
            for state, numbers, ms, loss in _continued(stage, found, shape, last, added):
                more = labels.extended(ms, loss)
                more.paths[:, -1] = numbers[more.paths[:, -1]]
                before = reached.get(state)
                reached[state] = (more if before is None else before.with_(more)).thinned(resolution_ms)
        states = reached
    first, *rest = states.values()
    for other in rest:
        first = first.with_(other)
    front = first.thinned(0.0)
    listed = [list(found) for found in losses]
    return [
        (_architecture(space, stages, listed, row), float(ms), float(loss))
        for row, ms, loss in zip(front.paths, front.ms, front.loss, strict=True)
    ]


def _continued(
    stage: Stage, losses: Mapping[Path, float], shape: Shape, last: Block | None,
    added: Callable[[tuple[Block, ...], tuple[Block, ...]], float],
) -> list[tuple[_State, NDArray, NDArray, NDArray]]:  # fmt: skip
    """Return for each state that the paths of a stage lead to their numbers, and the ms and losses that they add."""
    groups: dict[_State, list[tuple[int, float, float]]] = {}
    for number, (path, loss) in enumerate(losses.items()):
        blocks = stage.blocks(path, shape)
        runs = [block for block in blocks if not block.free]
        state = (blocks[-1].out_shape, runs[-1] if runs else last)
        groups.setdefault(state, []).append((number, added((last,) if last else (), tuple(runs)), loss))
    found = []
    for state, rows in groups.items():
        numbers, ms, lost = (np.array(column) for column in zip(*rows, strict=True))
        found.append((state, numbers, ms, lost))
    return found


def _architecture(
    space: SearchSpace, stages: Sequence[Stage], listed: Sequence[Sequence[Path]], row: NDArray
) -> Architecture:
    taken: dict[str, str] = {}
    for stage, found, number in zip(stages, listed, row, strict=True):
        taken |= stage.decisions(found[number])
    return replay(space, taken)


def best_within(
    space: SearchSpace,
    stages: Sequence[Stage],
    losses: Sequence[Mapping[Path, float]],
    targets: Sequence[TableTarget],
    seed: int,
) -> list[Architecture]:
    """Return the networks of the lowest sum of losses within ``BUDGETS`` budgets of each device, by rising latency.

    The slowest budget is the device's own, or its slowest network. See ``lowest_losses``; the resolution is a
    thousandth of that budget.
    """
    found: dict[str, Architecture] = {}
    for target in targets:
        low_ms, high_ms = latency_range(space, [target], seed)
        front = lowest_losses(space, stages, losses, target.table.predict_ms, _RESOLUTION * high_ms)
        for budget_ms in np.geomspace(low_ms, high_ms, BUDGETS + 1)[1:]:
            within = [architecture for architecture, ms, _ in front if ms <= budget_ms]
            found |= {a.id: a for a in within[-1:] if keeps(a, targets)}
    return list(found.values())
