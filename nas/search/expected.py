"""The expected latency of a distribution over architectures, and the nearest distribution that has a given one.

FBNetV2 (CVPR 2020, arXiv 2004.05565, section 3.3) propagates expected shapes from layer to layer, and counts by them.
Blocks that were measured have no latency at a shape between others: here the whole distribution over shapes is
propagated instead, which makes the expectation of the table's predictions exact.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latency.table import LatencyTable
from nas.search.distribution import decisions_of, draw, uniform
from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.chain import Position
from search_spaces.space import SearchSpace, replay

Latency = Callable[[Mapping[str, Tensor]], Tensor]
"""Decision -> probability of each option (..., options) to the expected latency (...) in ms, differentiable."""

# Enough draws to meet every option of a space several times.
_DRAWS = 1500
_STEEPEST = 1e3
# Each section leaves one of so many intervals.
_INTERVALS = 16
_SECTIONS = 6
_ROUNDS = 6
_SETTLED = 1e-2


def expected_latency(space: SearchSpace, table: LatencyTable, seed: int) -> Latency:
    """Return the expected latency of a space's distributions on the device of ``table``.

    It is exact where blocks follow one another. Elsewhere predictions are split into one cost per option.
    """
    chain = space.chain()
    if chain is None:
        return of_options(additive_costs(space, lambda a: table.predict_ms(space.blocks(a)), seed))
    return of_chain(chain, table)


def of_options(costs: Mapping[str, Tensor]) -> Latency:
    """Return the expected latency of options that cost so many ms, whatever the others are."""
    return lambda chances: torch.stack([(chances[name] * cost).sum(-1) for name, cost in costs.items()]).sum(0)


def additive_costs(space: SearchSpace, predict_ms: Callable[[Architecture], float], seed: int) -> dict[str, Tensor]:
    """Split predicted latencies into one cost (ms) per option, by least squares over random architectures."""
    options = decisions_of(space)
    column = {decision: i for i, decision in enumerate((n, o) for n, every in options.items() for o in every)}
    rng = np.random.default_rng(seed)
    everything = uniform(options)
    drawn = [draw(space, everything, rng) for _ in range(_DRAWS)]
    rows = np.zeros((len(drawn), len(column)))
    for row, taken in zip(rows, drawn, strict=True):
        row[[column[decision] for decision in taken.items()]] = 1
    found = np.linalg.lstsq(rows, np.array([predict_ms(replay(space, taken)) for taken in drawn]), rcond=None)[0]
    return {
        name: torch.from_numpy(found[[column[name, option] for option in every]]) for name, every in options.items()
    }


@dataclass(frozen=True)
class _Step:
    """A position's candidates behind each state (states, candidates): what they add (ms), to which state they lead."""

    position: Position
    ms: Tensor
    leads_to: Tensor

    def remaining(self, chances: Mapping[str, Tensor], behind: Tensor) -> Tensor:
        """Return the expected ms (..., states) from here on, of what is expected ``behind`` the position."""
        total = self.ms + behind[..., self.leads_to]
        return (total @ self.position.chances(chances).to(total)[..., None]).squeeze(-1)


def of_chain(chain: list[Position], table: LatencyTable) -> Latency:
    """Return the expected latency of blocks that follow one another: dynamic programming from the last to the first.

    A block adds to a network what the table says of it, and at its border what depends on its shape and on the
    layout of the last block that runs anything: both are the state, so nothing is averaged.
    """
    steps = _steps(chain, table)

    def expected(chances: Mapping[str, Tensor]) -> Tensor:
        behind = torch.zeros(1 + int(steps[-1].leads_to.max()), dtype=torch.float64)
        for step in reversed(steps):
            behind = step.remaining(chances, behind)
        return behind[..., 0]

    return expected


def _steps(chain: list[Position], table: LatencyTable) -> list[_Step]:
    # A state is a shape and a block that stands for all that end in the same layout; at first there is none.
    states: list[tuple[int, Block | None]] = [(0, None)]
    steps: list[_Step] = []
    for position in chain:
        found: dict[tuple[int, bool | None], tuple[int, Block | None]] = {}
        ms, leads_to = [], []
        for shape, last in states:
            for block, out in zip(position.blocks[shape], position.leads_to[shape].tolist(), strict=True):
                ms.append(0.0 if block.free else _added_ms(table, last, block))
                ending = last if block.free else block
                key = (out, None if ending is None else table.blocks[ending.key].plain_end)
                found.setdefault(key, (out, ending))
                leads_to.append(list(found).index(key))
        sides = (len(states), len(position.candidates))
        step = _Step(position, torch.tensor(ms, dtype=torch.float64).view(sides), torch.tensor(leads_to).view(sides))
        steps.append(step)
        states = list(found.values())
    return steps


def _added_ms(table: LatencyTable, last: Block | None, block: Block) -> float:
    """Return by how much ``block`` prolongs a network that ended with ``last``."""
    if last is None:
        return table.predict_ms([block])
    return table.predict_ms([last, block]) - table.predict_ms([last])


def at_budget(logits: Mapping[str, Tensor], latency: Latency, budget_ms: float) -> dict[str, Tensor]:
    """Return the logits of the distribution nearest to ``softmax(logits)`` whose expected latency is ``budget_ms``.

    Nearest in Kullback-Leibler divergence: it is ``softmax(logits - coefficient * costs)``, where the cost of an
    option is the derivative of the expected latency by its probability. Where costs depend on the other decisions they
    are those at the distribution found before, until both agree. Beyond what the space can reach it ends at the
    fastest or the slowest networks.
    """
    plain = {name: values.detach().double() for name, values in logits.items()}
    shift = {name: torch.zeros_like(values) for name, values in plain.items()}
    for _ in range(_ROUNDS):
        costs = _costs({name: values - shift[name] for name, values in plain.items()}, latency)
        coefficient = _coefficient(plain, costs, latency, budget_ms)
        before, shift = shift, {name: coefficient * cost for name, cost in costs.items()}
        if max(float((shift[name] - before[name]).abs().max()) for name in shift) < _SETTLED:
            break
    return {name: values - shift[name].to(values) for name, values in logits.items()}


def _costs(logits: Mapping[str, Tensor], latency: Latency) -> dict[str, Tensor]:
    """Return what an option costs (ms), beside the others of its decision, while all else follows its distribution."""
    chances = {name: F.softmax(values, dim=-1).requires_grad_() for name, values in logits.items()}
    costs = torch.autograd.grad(latency(chances), list(chances.values()))
    return {name: cost - cost.mean() for name, cost in zip(chances, costs, strict=True)}


def _coefficient(
    logits: Mapping[str, Tensor], costs: Mapping[str, Tensor], latency: Latency, budget_ms: float
) -> float:
    """Return the coefficient of ``costs`` in the exponent at which the expected latency is ``budget_ms``.

    The expected latency falls with it; many coefficients are tried at once, between the last that exceeds the budget
    and the next many more.
    """
    span = max(float(cost.max() - cost.min()) for cost in costs.values())
    low, high = -_STEEPEST / span, _STEEPEST / span
    for _ in range(_SECTIONS):
        tried = torch.linspace(low, high, _INTERVALS + 1, dtype=torch.float64)
        shifted = {name: values - tried[:, None] * costs[name] for name, values in logits.items()}
        ms = latency({name: F.softmax(values, dim=-1) for name, values in shifted.items()})
        over = int((ms[:-1] > budget_ms).sum())
        low, high = float(tried[max(0, over - 1)]), float(tried[max(1, over)])
    return high
