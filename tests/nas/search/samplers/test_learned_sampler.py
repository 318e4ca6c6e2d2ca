"""Drawing from a learned distribution: what uses the budget, new as long as there is any."""

from pathlib import Path

import numpy as np
import pytest
from fakes import made_up_table, run_study
from optuna import create_study

from nas.search.distribution import LEAST_USED, decisions_of, most_probable, uniform
from nas.search.samplers.learned import LearnedSampler, next_draw
from nas.search.target import TableTarget
from search_spaces.architecture import Architecture
from search_spaces.fbnet import OPTIONS, FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
ALL = uniform(decisions_of(SPACE))
TARGET = TableTarget(SPACE, made_up_table(SPACE), 0.24)
LEANING = {name: {o: 0.6 if o == "k3_e6" else 0.05 for o in OPTIONS} for name in ALL}


def used(architecture: Architecture) -> float:
    return TARGET.predict_ms(architecture) / 0.24


def test_draws_use_the_budget_and_are_new() -> None:
    seen: set[str] = set()
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = next_draw(SPACE, ALL, used, seen, rng)
        assert found.id not in seen
        assert LEAST_USED <= used(found) <= 1
        seen.add(found.id)


def test_the_most_probable_comes_first_if_it_uses_the_budget() -> None:
    best, rng = most_probable(SPACE, LEANING), np.random.default_rng(0)
    assert next_draw(SPACE, LEANING, lambda a: 0.98 if a == best else 0.99, set(), rng) == best
    assert next_draw(SPACE, LEANING, lambda a: 0.98 if a == best else 0.99, {best.id}, rng) != best
    assert next_draw(SPACE, LEANING, lambda a: 0.5 if a == best else 0.99, set(), rng) != best


def test_without_anything_new_that_uses_the_budget_the_nearest_comes() -> None:
    rng = np.random.default_rng(0)
    found = next_draw(SPACE, ALL, lambda a: 0.1 + 0.8 * (a.id < "8"), set(), rng)
    assert found.id < "8"
    # What is beyond the budget is nothing, however little.
    found = next_draw(SPACE, ALL, lambda a: 1.001 if a.id < "8" else 0.1, set(), rng)
    assert found.id >= "8"
    assert next_draw(SPACE, ALL, lambda _: float("inf"), set(), rng) == most_probable(SPACE, ALL)


def test_once_all_that_keeps_the_budget_was_seen_it_comes_again() -> None:
    few = {name: {o: float(o == "k3_e3") for o in OPTIONS} for name in ALL}
    few["layer01"] = {o: 0.5 if o in ("k3_e3", "k5_e3") else 0.0 for o in OPTIONS}
    one, other = (SPACE.parse(",".join([first, *["k3_e3"] * (len(ALL) - 1)])) for first in ("k3_e3", "k5_e3"))
    found = [
        next_draw(
            SPACE, few, lambda a: 0.98 if a == other else float("inf"), {one.id, other.id}, np.random.default_rng(i)
        )
        for i in range(5)
    ]
    assert found == [other] * 5


@pytest.mark.parametrize("kind", ["dnas", "fpnas"])
def test_a_study_is_made_of_networks_that_use_the_budget(kind: str, tmp_path: Path) -> None:
    trials = run_study(tmp_path / "j", kind, SPACE, 0.24, 30)  # type: ignore[arg-type]
    proposed = [attrs for *_, attrs in trials if "origin" not in attrs]
    assert len(proposed) >= 15 and len({str(attrs["id"]) for attrs in proposed}) == len(proposed)
    for attrs in proposed:
        assert LEAST_USED * 0.24 <= float(str(attrs["predicted_ms cpu"])) <= 0.24


def test_of_several_devices_the_one_counts_whose_budget_is_used_most() -> None:
    ms = [lambda a: 1.0 if a.id < "8" else 0.5, lambda a: 2.0, lambda a: 9.0]
    sampler = LearnedSampler(SPACE, ms, [1.0, 2.1, None], 0, ALL)
    assert all(sampler.propose(create_study(), number).id < "8" for number in range(5))
