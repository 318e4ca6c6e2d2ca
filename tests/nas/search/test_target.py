"""Targets: latencies come from the table that each stands for, and say how they are known."""

from pathlib import Path

import numpy as np
import pytest
from fakes import made_up_table

from latency.fit import fit_timings
from nas.search.target import FittedTarget, RecordedTarget, TableTarget, Target, metric
from nas.training.recorded import Recorded
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import sample

SPACE = FBNetSpace((1, 8, 8), 10)
NETWORKS = [sample(SPACE, np.random.default_rng(seed)) for seed in range(30)]


def test_measured_table() -> None:
    table = made_up_table(SPACE, "board")
    target: Target = TableTarget(SPACE, table, 3.0)
    assert (target.device, target.kind, target.budget_ms) == ("board", "predicted", 3.0)
    assert target.predict_ms(NETWORKS[0]) == table.predict_ms(SPACE.blocks(NETWORKS[0]))
    assert metric(target.kind, target.device) == "predicted_ms board"


def test_fitted_table() -> None:
    fitted = fit_timings(SPACE, NETWORKS, [1 + 1e-6 * SPACE.macs(network) for network in NETWORKS], "phone")
    target: Target = FittedTarget(SPACE, fitted, None)
    assert (target.device, target.kind, target.budget_ms) == ("phone", "predicted", None)
    assert target.predict_ms(NETWORKS[0]) == fitted.predict_written_ms(SPACE, NETWORKS[0])


def test_recorded_latencies() -> None:
    target: Target = RecordedTarget("pixel3", Recorded(Path("t.csv"), {NETWORKS[0]: 0.0}), 1.0)
    assert (target.device, target.kind, target.budget_ms) == ("pixel3", "recorded", 1.0)
    assert target.predict_ms(NETWORKS[0]) == 0.0
    assert metric(target.kind, target.device) == "recorded_ms pixel3"
    with pytest.raises(InputError, match=r"t\.csv has no row for fbnet/small-8:"):
        target.predict_ms(NETWORKS[1])
