"""Finalists and the family beside them: whoever found a member of the family, it is the family's."""

from pathlib import Path

import pytest
from fakes import made_up_accuracy, made_up_table

from nas.delivery import choice as module
from nas.delivery.choice import LARGEST, choose, choose_unsearched
from nas.search.baselines import spread_family
from nas.search.record import Evaluated
from nas.search.target import TableTarget
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
DEVICES = ("cpu", "cpu:int8")
OTHERS = [
    SPACE.parse(f"{a},{b},skip,k3_e3,skip,k3_e3,skip,k5_e6") for a in ("k3_e1", "k5_e3") for b in ("k3_e6", "skip")
]


def targets(budget_ms: float | None = None) -> list[TableTarget]:
    return [TableTarget(SPACE, made_up_table(SPACE, name), budget_ms) for name in DEVICES]


def rated(origin: str = "search") -> list[Evaluated]:
    networks = [*OTHERS, *SPACE.baseline_family()]
    return [
        Evaluated(n, a, origin, made_up_accuracy(a), tuple(t.predict_ms(a) for t in targets()))
        for n, a in enumerate(networks)
    ]


def test_members_are_chosen_by_latency_and_rated_where_they_were(tmp_path: Path) -> None:
    ratings = {t.architecture.id: t.accuracy for t in rated()}
    wanted = {a.id for a in spread_family(SPACE, targets(), 3)}
    for trials in (rated(), rated()[: len(OTHERS)]):
        found = choose(tmp_path, SPACE, targets(), trials, trials, 2, 3)
        family = {f.architecture.id: f for f in found if f.origin == "baseline"}
        assert wanted <= family.keys()
        known = {t.architecture.id for t in trials}
        for name, one in family.items():
            assert one.accuracy == (ratings[name] if name in known else None)
            assert one.ms == tuple(t.predict_ms(one.architecture) for t in targets())
        assert {f.architecture.id for f in found} - wanted <= known


def test_members_that_the_search_found_are_the_family_s(tmp_path: Path) -> None:
    found = choose(tmp_path, SPACE, targets(), rated(), rated(), 20, 0)
    members = {a.id for a in SPACE.baseline_family()}
    assert len(found) == len(rated())
    assert all((f.origin == "baseline") == (f.architecture.id in members) for f in found)


def test_none_of_the_family(tmp_path: Path) -> None:
    trials = rated()[: len(OTHERS)]
    found = choose(tmp_path, SPACE, targets(), trials, trials, 2, 0)
    assert found and all(f.origin == "search" for f in found)


def test_what_is_trained_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = {OTHERS[0].id, SPACE.baseline_family()[1].id}
    monkeypatch.setattr(module, "finished", lambda _, a: a.id in trained)
    found = choose(tmp_path, SPACE, targets(), rated(), rated(), 1, 0)
    assert trained <= {f.architecture.id for f in found}


@pytest.mark.parametrize("budget_ms", [None, 0.25])
def test_without_a_search(budget_ms: float | None, tmp_path: Path) -> None:
    on = targets(budget_ms)
    found = choose_unsearched(tmp_path, SPACE, on, 0, 4, 2)
    assert {f.origin for f in found} == {LARGEST, "baseline"} and all(f.accuracy is None for f in found)
    assert {a.id for a in spread_family(SPACE, on, 2)} <= {f.architecture.id for f in found}
    assert sum(f.origin == LARGEST for f in found) >= 2 and len(found) <= 6
    assert budget_ms is None or max(ms for f in found for ms in f.ms) <= budget_ms
    assert choose_unsearched(tmp_path, SPACE, on, 0, 4, 2) == found
