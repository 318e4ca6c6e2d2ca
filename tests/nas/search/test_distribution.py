"""Distributions over architectures: what they hold, what their latency is, and how a budget shifts them."""

import math
from pathlib import Path

import numpy as np
import pytest
from fakes import made_up_table
from toy_space import ToySpace

from nas.search.distribution import (
    decisions_of,
    draw,
    load,
    most_probable,
    save,
    summary,
    uniform,
)
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.fbnet import OPTIONS, FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
TABLE = made_up_table(SPACE)
LAYERS = [f"layer{i:02d}" for i in range(1, SPACE.searchable + 1)]


def predict_ms(architecture: Architecture) -> float:
    return TABLE.predict_ms(SPACE.blocks(architecture))


def test_decisions_of_a_list_of_layers() -> None:
    assert decisions_of(SPACE) == dict.fromkeys(LAYERS, OPTIONS)


def test_decisions_that_depend_on_others_are_found() -> None:
    found = decisions_of(ToySpace((1, 8, 8), 10))
    assert set(found) == {f"{kind}{number}" for kind in ("use", "kernel", "expansion") for number in (1, 2)}
    assert found["expansion2"] == ("e1", "e2", "e3")


@pytest.mark.parametrize("space", [SPACE, ToySpace((1, 8, 8), 10)], ids=lambda space: space.name)
def test_draws_follow_the_probabilities(space: FBNetSpace) -> None:
    first = next(iter(decisions_of(space)))
    chances = {name: dict(row) for name, row in uniform(decisions_of(space)).items()}
    options = list(chances[first])
    chances[first] = {option: 0.75 if option == options[0] else 0.25 / (len(options) - 1) for option in options}
    rng = np.random.default_rng(0)
    drawn = [draw(space, chances, rng) for _ in range(1000)]
    assert np.mean([taken[first] == options[0] for taken in drawn]) == pytest.approx(0.75, abs=0.04)
    assert draw(space, chances, np.random.default_rng(0)) == drawn[0]


def test_summary() -> None:
    lines = summary(SPACE, uniform(decisions_of(SPACE)), predict_ms)
    assert lines["entropy (nats)"] == f"{SPACE.searchable * math.log(9):.1f}"
    sure = {name: {o: float(o == "k3_e3") for o in OPTIONS} for name in LAYERS}
    one = SPACE.parse(",".join(["k3_e3"] * SPACE.searchable))
    assert most_probable(SPACE, sure) == one
    assert summary(SPACE, sure, predict_ms) == {
        "entropy (nats)": "0.0",
        "predicted ms of its draws": f"{predict_ms(one):.3g} +- 0",
        "most probable": f"{one.text} ({predict_ms(one):.3g} predicted ms)",
    }


def test_saved_and_loaded(tmp_path: Path) -> None:
    path, chances = tmp_path / "distribution.json", uniform(decisions_of(SPACE))
    save(path, SPACE, chances)
    assert load(path, SPACE) == chances
    with pytest.raises(InputError, match="is of the space fbnet/small-8, not of toy"):
        load(path, ToySpace((1, 8, 8), 10))
    path.write_text(path.read_text().replace("0.1111", "0.2111", 1))
    with pytest.raises(InputError, match="is damaged"):
        load(path, SPACE)
