"""Costs: lines through timed networks, and a little of everything done once."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from fakes import made_up_table

from latency.device import Device
from nas import costs as module
from nas.config import SearchConfig
from nas.costs import measure_costs, predicted_table_s, time_steps
from nas.search.target import TableTarget
from nas.training.oracle import Task
from nas.training.recipe import FINAL, Recipe
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
FAMILY = sorted(SPACE.baseline_family(), key=SPACE.macs)
NETWORKS = [FAMILY[0], FAMILY[4], FAMILY[-1]]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task(SPACE, "digits", None, tmp_path_factory.mktemp("data"), 0, None, Recipe(1))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda macs: 0.01 + 2e-8 * macs, (0.01, 2e-8)),
        (lambda macs: 0.02 - 1e-9 * macs, None),  # noise: the mean of all
        (lambda macs: 1e-8 * (macs - 50_000), None),
    ],
)
def test_steps_are_a_line_over_macs(
    seconds, expected: tuple[float, float] | None, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    macs = [SPACE.macs(a) for a in NETWORKS]
    told = iter([seconds(m) for m in macs])
    monkeypatch.setattr(module, "_step_s", lambda run: next(told))
    step_s, per_mac = time_steps(task, NETWORKS, FINAL)
    if expected is not None:
        assert (step_s, per_mac) == pytest.approx(expected)
    else:
        assert min(step_s, per_mac) == 0
        assert step_s + per_mac * np.mean(macs) == pytest.approx(np.mean([seconds(m) for m in macs]))


def test_networks_of_equal_size_have_no_slope(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_step_s", lambda run: 0.5)
    assert time_steps(task, [NETWORKS[1]] * 3, FINAL) == (0.5, 0.0)


@pytest.mark.parametrize("enough_s", [0.0, 60.0])
def test_long_steps_are_timed_less_often(enough_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0, *(9.0 + 3.0 * n for n in range(1, 20))])  # the first epoch warms up
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(module, "_ENOUGH_S", enough_s)
    done = []

    def run(progress) -> None:
        for epoch in range(9):
            done.append(epoch)
            progress(epoch, 8)

    assert module._step_s(run) == pytest.approx(3.0 / module._BATCHES)
    assert len(done) == (9 if enough_s else 4)


def test_everything_is_measured(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_ENOUGH_S", 0.0), ("_RATED", 6), ("_PROPOSED", 1), ("all_cores", nullcontext)):
        monkeypatch.setattr(module, name, value)
    budget_ms = 0.3
    targets = [TableTarget(SPACE, made_up_table(SPACE, name), budget_ms) for name in ("cpu", "cpu:int8")]
    config = SearchConfig.checked(data="digits", out=tmp_path / "run", time="3m", workers=2)
    found = measure_costs(config, task, targets, [Device.parse("cpu"), Device.parse("cpu:int8")])
    assert (found.steps, found.layers, found.workers, found.devices) == (17, SPACE.searchable, 2, 2)
    assert found.step_s >= 0 and found.step_s_per_mac >= 0 and found.step_s + found.step_s_per_mac > 0
    assert SPACE.macs(FAMILY[0]) < found.macs < SPACE.macs(FAMILY[-1])
    rest = (found.rating_s, found.proposal_s, found.supernet_step_s, found.supernet_start_s, found.delivery_s)
    assert min(rest) > 0 and 2 * module.FRONT_S < found.measuring_s < 2 * module.FRONT_S + 1
    found = measure_costs(config.model_copy(update={"oracle": "train"}), task, targets, [Device.parse("cpu")])
    assert found.supernet_step_s == found.supernet_start_s == 0 < found.rating_s
    assert list(tmp_path.iterdir()) == []
    assert predicted_table_s(SPACE, 2) == 2 * predicted_table_s(SPACE, 1) > 0
