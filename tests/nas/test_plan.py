"""The arithmetic of plans: they keep the time whatever the parts cost, and every setting that was given."""

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from latency.build import ANCHORS
from nas.plan import (
    FAMILY,
    FINALISTS,
    LEAST_TRAININGS,
    MOST_EPOCHS,
    RESERVE,
    Costs,
    Plan,
    choose_oracle,
    make_plan,
)

COSTS = Costs(
    step_s=0.004, step_s_per_mac=8e-9, macs=2e6, rating_s=0.3, proposal_s=0.2, supernet_step_s=0.03,
    supernet_start_s=1.0, delivery_s=3.0, measuring_s=0.5, steps=78, layers=8, workers=1,
    devices=1,
)  # fmt: skip
TRAIN = {"oracle": "train"}
SPENT = {"data": 0.2, "table": 15.0, "plan": 10.0}
# Of a 12-epoch training: 12 * 78 * (.004 + 8e-9 * 2e6) s and 3 s of delivery.
LONG_S = 13 * 78 * 0.02 + 3  # 13 epochs are the first to have 940 steps


def drawn(rng: random.Random) -> Costs:
    """Return costs of small and large networks and data sets, on one worker or several."""
    return Costs(
        step_s=10 ** rng.uniform(-3, -1), step_s_per_mac=10 ** rng.uniform(-10, -8), macs=10 ** rng.uniform(5, 8),
        rating_s=10 ** rng.uniform(-2, 1), proposal_s=10 ** rng.uniform(-2, 0),
        supernet_step_s=10 ** rng.uniform(-2, 0.5), supernet_start_s=rng.uniform(0, 3), delivery_s=rng.uniform(1, 6),
        measuring_s=rng.uniform(0.2, 2), steps=rng.randint(3, 2000), layers=rng.randint(4, 26),
        workers=rng.randint(1, 4), devices=rng.randint(1, 3),
    )  # fmt: skip


def training_s(plan: Plan) -> float:
    """Return what is left for search and finalists once all else is paid."""
    other = sum(s.planned_s for s in plan.stages if s.name in ("data", "table", "plan", "front"))
    return (1 - RESERVE) * plan.time_s - other


def seconds(plan: Plan) -> dict[str, float]:
    return {stage.name: stage.planned_s for stage in plan.stages}


def test_plans_keep_the_time_and_give_finalists_more_than_half() -> None:
    rng = random.Random(0)
    searched, capped = {True: 0, False: 0}, 0
    for _ in range(2000):
        costs, time_s = drawn(rng), 10 ** rng.uniform(2, 6)
        plan = make_plan(time_s, SPENT, costs, {})
        searched[plan.search] += 1
        left_s, settings, stages = training_s(plan), plan.settings, seconds(plan)
        if not plan.search:
            assert "no search, as it will not pay" in plan.why and stages.keys() == {*SPENT, "finalists", "front"}
            assert settings["oracle"] == "train" and FINALISTS[0] <= settings["finalists"] <= FINALISTS[1]
            continue
        assert sum(stages.values()) <= time_s * (1 - RESERVE) + 1e-6
        assert FINALISTS[0] <= settings["finalists"] <= FINALISTS[1] and settings["family"] == FAMILY
        assert settings["trials"] >= max(50, 6 * costs.layers)
        share = (left_s - sum(stages.get(name, 0) for name in ("oracle", "rank check", "search"))) / left_s
        assert share >= 0.5 - 1e-9
        most = settings["trials"] == 4 * max(50, 6 * costs.layers)
        assert share <= 0.65 + 0.02 or most  # whole epochs and candidates; or more of them would be of no use
        # One more epoch would not fit.
        macs = [costs.macs] * (costs.devices * settings["finalists"] + FAMILY)
        start_s = costs.supernet_start_s if settings["oracle"] == "supernet" else 0.0
        assert stages["finalists"] == costs.makespan_s(settings["final_epochs"], macs, start_s)
        capped += settings["final_epochs"] == MOST_EPOCHS
        if settings["final_epochs"] < MOST_EPOCHS:
            assert costs.makespan_s(settings["final_epochs"] + 1, macs, start_s) > share * left_s - 1e-6
    assert min(searched.values()) > 200 and 0 < capped < 1000


def test_share_of_the_finalists_where_nothing_is_capped() -> None:
    for factor in (1.0, 1.5, 2.0):
        time_s = factor * 26 * LONG_S / (1 - RESERVE) + sum(SPENT.values()) + 30
        plan = make_plan(time_s, SPENT, replace(COSTS, supernet_step_s=0.1), {})
        assert plan.search and plan.settings["oracle"] == "train"
        assert 0.5 <= seconds(plan)["finalists"] / training_s(plan) <= 0.67
        assert plan.settings["final_epochs"] * 78 >= 940


def test_too_few_long_trainings_are_no_search() -> None:
    def planned(trainings: float) -> Plan:
        front_s = COSTS.measuring_s * (FINALISTS[1] + FAMILY + ANCHORS)
        return make_plan((trainings * LONG_S + sum(SPENT.values()) + front_s) / (1 - RESERVE), SPENT, COSTS, {})

    assert planned(LEAST_TRAININGS + 0.1).search and not planned(LEAST_TRAININGS - 0.1).search
    few = planned(12.0)
    assert few.settings["finalists"] + few.settings["family"] <= 12 and few.settings["final_epochs"] >= 13
    assert f"{training_s(few):.0f} s for training are worth 12 trainings of 13 epochs" in few.why
    assert "largest per latency bin" in few.stages[-2].what


def test_more_time_buys_epochs_first_and_then_finalists() -> None:
    plans = [make_plan(factor * 26 * LONG_S + 100, SPENT, COSTS, {}) for factor in (1, 2, 4, 8)]
    assert [plan.settings["finalists"] for plan in plans] == [5, 8, 8, 8]
    epochs = [plan.settings["final_epochs"] for plan in plans]
    assert epochs == sorted(epochs) and epochs[-1] > 3 * epochs[0]


@pytest.mark.parametrize(
    ("proxies_s", "supernet_s", "oracle"),
    [
        (30, 10, "train"),  # within .35 of the time
        (40, 42, "supernet"),  # as good as equal
        (40, 38, "supernet"),
        (30, 31, "supernet"),
        (36, 45, "train"),  # cheaper than the supernet
        (60, 45, "supernet"),
        (40, 20, "supernet"),  # beyond .35 of the time, and dearer
        (55, 90, None),
        (90, 55, None),
        (51, 51, None),
    ],
)
def test_choice_of_the_oracle(proxies_s: float, supernet_s: float, oracle: str | None) -> None:
    found, why = choose_oracle(100, proxies_s, supernet_s)
    assert found == oracle
    assert why.startswith(f"short trainings take {proxies_s} s, a supernet {supernet_s} s, of 100 s: ")


def test_dear_trainings_make_a_supernet_and_cheap_ones_proxies() -> None:
    # An epoch takes 400 s, and a candidate one, of which 22 layers want 132; a supernet takes a minute.
    large = replace(COSTS, steps=20_000, layers=22)
    plan = make_plan(27 * 13 * 400, SPENT, large, {})
    assert plan.settings["oracle"] == "supernet" and plan.settings["supernet_steps"] == 4 * 1700
    assert plan.settings["trials"] == 4 * 132 and {"oracle", "rank check", "search"} <= seconds(plan).keys()
    plan = make_plan(40 * LONG_S, SPENT, replace(COSTS, supernet_step_s=0.1), {})
    assert plan.settings["oracle"] == "train" and "supernet_steps" not in plan.settings


def test_networks_to_start_from_are_searched_from_however_short_the_time_is() -> None:
    assert make_plan(60, SPENT, COSTS, {"start": ("fbnet_a",)}).search
    assert not make_plan(60, SPENT, COSTS, {}).search


GIVEN: list[dict[str, Any]] = [
    {"oracle": "train"}, {"oracle": "supernet"}, {"trials": 7}, {"trials": 300, "oracle": "supernet"},
    {"proxy_epochs": 9, "oracle": "train"}, {"supernet_steps": 123, "oracle": "supernet"}, {"finalists": 2},
    {"finalists": 11}, {"family": 0}, {"family": 9}, {"final_epochs": 7}, {"final_epochs": 900},
    {"rank_networks": 0, "oracle": "supernet"}, {"rank_networks": 20, "oracle": "supernet"},
]  # fmt: skip


@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_what_is_given_stays(given: dict[str, Any]) -> None:
    for costs, time_s in itertools.product((COSTS, replace(COSTS, workers=3)), (60, 600, 6000)):
        plan = make_plan(time_s, SPENT, costs, {**given, "seed": 3})
        kept = {name: value for name, value in plan.settings.items() if name in given}
        assert kept == {name: given[name] for name in kept} and "seed" not in plan.settings
        assert plan.search or not {"oracle", "trials"} & given.keys()
        if plan.search:
            assert kept == given
        over_s = sum(seconds(plan).values()) - time_s
        assert (f"{over_s:.0f} s more than the {time_s} s given" in plan.why) == (over_s > 0)


def test_an_oracle_that_is_given_is_searched_with_in_any_time() -> None:
    plan = make_plan(60, SPENT, COSTS, {"oracle": "train", "trials": 400})
    assert plan.search and plan.settings["final_epochs"] == 1 and "s more than the 60 s given" in plan.why


def test_without_a_supernet_candidates_are_trained_where_that_pays() -> None:
    none = replace(COSTS, supernet_step_s=0, supernet_start_s=0)
    given, free, short = (make_plan(s, SPENT, none, how) for s, how in ((3600, TRAIN), (3600, {}), (60, {})))
    assert given.search and free.search and given.stages == free.stages and free.settings["oracle"] == "train"
    assert "candidates are trained for a short time" in free.why and "supernet" not in free.why
    assert given == replace(make_plan(3600, SPENT, COSTS, TRAIN), costs=none)
    assert not short.search and "no search, as it will not pay" in short.why


def test_teachers_need_a_supernet() -> None:
    for time_s in (60, 6000):
        plan = make_plan(time_s, SPENT, COSTS, {"distil": 0.5})
        assert plan.search and plan.settings["oracle"] == "supernet" and plan.why.startswith("--distil learns from")


def test_workers_share_the_networks() -> None:
    two = replace(COSTS, workers=2)
    one_s = COSTS.training_s(5) + COSTS.delivery_s
    assert COSTS.makespan_s(5, [COSTS.macs] * 5) == pytest.approx(5 * one_s)
    assert two.makespan_s(5, [COSTS.macs] * 5) == pytest.approx(3 * one_s)
    # 1 + 3 and 2 + 4 million MACs: each worker takes the next when it is free.
    macs = [1e6, 2e6, 3e6, 4e6]
    assert two.makespan_s(5, macs, 1.0) == pytest.approx(2 * 4 + two.training_s(5, 2e6) + two.training_s(5, 4e6))
    assert (
        make_plan(900, SPENT, two, {}).settings["final_epochs"]
        > make_plan(900, SPENT, COSTS, {}).settings["final_epochs"]
    )


def test_epochs_within_a_time() -> None:
    macs = [1e6, 2e6, 3e6]
    for seconds_left in (0.0, 20.0, 100.0, 1e7):
        epochs = COSTS.epochs_within(seconds_left, macs)
        assert epochs == 1 or COSTS.makespan_s(epochs, macs) <= seconds_left
        assert epochs == MOST_EPOCHS or COSTS.makespan_s(epochs + 1, macs) > seconds_left
    assert COSTS.epochs_within(0, macs) == 1 and COSTS.epochs_within(1e7, macs) == MOST_EPOCHS


def test_finalists_pay_for_what_took_longer() -> None:
    plan = make_plan(1500, SPENT, COSTS, {"oracle": "train"})
    macs = [COSTS.macs] * (plan.settings["finalists"] + FAMILY)
    front_s = COSTS.front_s(len(macs))
    before_s = (1 - RESERVE) * plan.time_s - seconds(plan)["finalists"] - front_s - 1e-6
    planned = plan.settings["final_epochs"]
    same = plan.settle(before_s, macs, COSTS, {})
    assert same.settings == plan.settings and same.settled.endswith("(as planned)")
    late = plan.settle(before_s + 300, macs, COSTS, {})
    left_s = seconds(plan)["finalists"] - 300
    assert late.settings["final_epochs"] == COSTS.epochs_within(left_s + 1e-6, macs) < planned
    assert (
        f"{before_s + 300:.0f} s are used, " in late.settled
        and "1.00 x what it" in late.settled
        and f"({planned} were planned)" in late.settled
    )
    slower = plan.settle(before_s, macs, replace(COSTS, step_s=0.02), {})
    assert slower.settings["final_epochs"] < planned
    assert plan.settle(2 * plan.time_s, macs, COSTS, {}).settings["final_epochs"] == 1
    given = plan.settle(before_s + 300, macs, COSTS, {"final_epochs": planned})
    assert given.settings == plan.settings and given.settled.endswith(f"finalists train {planned} epochs, as given")


def test_plans_survive_as_json() -> None:
    for plan in (make_plan(1500, SPENT, COSTS, {}), make_plan(60, SPENT, COSTS, {})):
        assert Plan.from_json(plan.as_json()) == plan and all(math.isfinite(s.planned_s) for s in plan.stages)
