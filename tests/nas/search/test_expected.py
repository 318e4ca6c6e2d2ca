"""The expected latency of a distribution: counted, drawn and differentiated; and the nearest one at a budget."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import made_up_table
from tiny_space import TinySpace, rough_table
from torch import Tensor
from toy_space import ToySpace

from nas.search.distribution import decisions_of, draw, probabilities_of, uniform
from nas.search.expected import Latency, additive_costs, at_budget, expected_latency
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.hybrid import HybridSpace
from search_spaces.space import SearchSpace, replay

TINY = TinySpace()
FBNET = FBNetSpace((1, 8, 8), 10)
LAYERED = [FBNET, FBNetV2Space((1, 28, 28), 10), HybridSpace((1, 28, 28), 10)]


def random_logits(space: SearchSpace, seed: int = 0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.normal(size=len(every))) for name, every in decisions_of(space).items()}


def softmax(logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: F.softmax(values, dim=-1) for name, values in logits.items()}


def at(logits: Mapping[str, Tensor], latency: Latency) -> float:
    return float(latency(softmax(logits)))


def divergence(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    logs = [(F.log_softmax(one[name], 0), F.log_softmax(other[name], 0)) for name in one]
    return float(sum((a.exp() * (a - b)).sum() for a, b in logs))


def test_expected_latency_is_the_sum_over_all_networks() -> None:
    table, logits = rough_table(TINY), random_logits(TINY)
    chances = probabilities_of(logits, decisions_of(TINY))
    total, everything = 0.0, 0.0
    paths: list[list[int]] = [[]]
    while paths:  # every way to decide, also where two lead to equal networks
        path = paths.pop()
        weight, taken = 1.0, dict[str, str]()

        def choose(name: str, options: list[str], path: list[int] = path, taken: dict[str, str] = taken) -> str:
            nonlocal weight
            if len(taken) == len(path):
                paths.extend([*path, i] for i in range(1, len(options)))
                path.append(0)
            taken[name] = options[path[len(taken)]]
            weight *= chances[name][taken[name]]
            return taken[name]

        architecture = TINY.decide(choose)  # type: ignore[arg-type]
        total += weight * table.predict_ms(TINY.blocks(architecture))
        everything += weight
    assert everything == pytest.approx(1)
    assert at(logits, expected_latency(TINY, table, 0)) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("space", LAYERED, ids=lambda space: space.name)
def test_expected_latency_is_the_mean_of_the_draws(space: SearchSpace) -> None:
    table, logits, rng = rough_table(space), random_logits(space), np.random.default_rng(0)
    chances = probabilities_of(logits, decisions_of(space))
    drawn = [table.predict_ms(space.blocks(replay(space, draw(space, chances, rng)))) for _ in range(1000)]
    error = float(np.std(drawn)) / 1000**0.5
    assert error < 0.015 * np.mean(drawn)
    assert at(logits, expected_latency(space, table, 0)) == pytest.approx(np.mean(drawn), abs=3 * error)


def test_its_gradient_is_its_slope() -> None:
    latency = expected_latency(TINY, rough_table(TINY), 0)
    names, values = zip(*random_logits(TINY).items(), strict=True)
    leaves = tuple(value.requires_grad_() for value in values)
    assert torch.autograd.gradcheck(lambda *v: latency(softmax(dict(zip(names, v, strict=True)))), leaves)


def test_many_distributions_are_rated_at_once() -> None:
    latency = expected_latency(TINY, rough_table(TINY), 0)
    few = [random_logits(TINY, seed) for seed in range(3)]
    together = latency({name: torch.stack([softmax(each)[name] for each in few]) for name in few[0]})
    assert together.tolist() == pytest.approx([at(each, latency) for each in few], rel=1e-12)


@pytest.mark.parametrize("space", [*LAYERED, TINY, ToySpace((1, 8, 8), 10)], ids=lambda space: space.name)
def test_a_budget_between_the_extremes_is_met(space: SearchSpace) -> None:
    latency, logits = expected_latency(space, rough_table(space), 0), random_logits(space)
    own = at(logits, latency)
    low, high = (at(at_budget(logits, latency, budget), latency) for budget in (1e-9, 1e9))
    assert low < 0.9 * own < 1.1 * own < high
    for budget_ms in np.linspace(1.05 * low, 0.95 * high, 7):
        assert at(at_budget(logits, latency, budget_ms), latency) == pytest.approx(budget_ms, rel=1e-4)
    same = at_budget(logits, latency, own)
    assert divergence(same, logits) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("share", [0.8, 1.2])
def test_no_other_distribution_of_that_latency_is_nearer(share: float) -> None:
    latency, logits = expected_latency(TINY, rough_table(TINY), 0), random_logits(TINY)
    budget_ms = share * at(logits, latency)
    found = at_budget(logits, latency, budget_ms)
    distance, rng = divergence(found, logits), np.random.default_rng(0)
    assert distance > 0.01
    for size in (0.03, 0.1, 0.3, 1.0):
        for _ in range(10):
            moved = {name: v + size * torch.from_numpy(rng.normal(size=len(v))) for name, v in found.items()}
            assert divergence(at_budget(moved, latency, budget_ms), logits) > distance


def test_the_budget_leaves_the_gradient_of_the_logits() -> None:
    logits = {name: values.float().requires_grad_() for name, values in random_logits(TINY).items()}
    found = at_budget(logits, expected_latency(TINY, rough_table(TINY), 0), 0.2)
    torch.stack([values[0] for values in found.values()]).sum().backward()
    for values in logits.values():
        assert values.grad is not None and values.grad.tolist() == [1.0] + [0.0] * (len(values) - 1)


def test_no_budget_leads_beyond_the_space() -> None:
    table = made_up_table(FBNET)
    latency = expected_latency(FBNET, table, 0)
    flat = {name: torch.zeros(len(every), dtype=torch.float64) for name, every in decisions_of(FBNET).items()}
    # Layers of this table are independent: the extremes are those of each.
    rows = [[0.0 if b.free else table.blocks[b.key].cold_ms - 0.002 for b in row] for row in FBNET.positions()]
    for budget_ms, side in ((1e-9, min), (1e9, max)):
        extreme = table.calibration.offset_ms + sum(map(side, rows))
        assert at(at_budget(flat, latency, budget_ms), latency) == pytest.approx(extreme, rel=0.02)


def test_costs_of_options_add_up_to_the_prediction() -> None:
    table = made_up_table(FBNET)

    def predict_ms(taken: dict[str, str]) -> float:
        return table.predict_ms(FBNET.blocks(replay(FBNET, taken)))

    costs = additive_costs(FBNET, lambda a: table.predict_ms(FBNET.blocks(a)), 0)
    rng, options = np.random.default_rng(1), decisions_of(FBNET)
    for _ in range(20):
        taken = draw(FBNET, uniform(options), rng)
        total = sum(float(costs[name][options[name].index(option)]) for name, option in taken.items())
        # The made-up table is additive, so least squares is exact.
        assert total == pytest.approx(predict_ms(taken), rel=1e-6)
