"""Searches that start from named networks: rated first, refused where there is none, left out over budget."""

from functools import partial
from pathlib import Path

import pytest
from fakes import Quiet, made_up_accuracy, made_up_table

from nas.config import SearchConfig
from nas.folder import RunFolder
from nas.search.starts import starts_within
from nas.search.study import read_study
from nas.search.target import TableTarget
from nas.searching import search_study
from nas.training.oracle import counts
from search_spaces.einspace.space import EinSpace
from search_spaces.errors import InputError
from search_spaces.nb201 import NB201Space

SPACE = NB201Space((1, 8, 8), 10)
NAMED = sorted(SPACE.named())
TABLE = made_up_table(SPACE)


def searched(folder: Path, trials: int, *names: str) -> list[tuple[str, str]]:
    """Run a search with random proposals; return the origin and the id of each trial."""
    config = SearchConfig.checked(
        data="digits", out=folder, space="nb201", sampler="random", trials=trials, start=names, oracle="train"
    )
    run = RunFolder(folder, {"report": {}})
    search_study(
        config, run, Quiet(), SPACE, [TableTarget(SPACE, TABLE, None)], lambda: made_up_accuracy,
        free=partial(counts, SPACE),
    )  # fmt: skip
    trials_ = read_study(run.journal).get_trials(deepcopy=False)
    return [(trial.user_attrs.get("origin", "search"), trial.user_attrs["id"]) for trial in trials_]


def test_named_networks_are_rated_first(tmp_path: Path) -> None:
    one, other = NAMED[:2]
    found = searched(tmp_path, 8, f"{other},{one}", one)
    assert found[:2] == [("start", SPACE.parse(other).id), ("start", SPACE.parse(one).id)]
    assert {origin for origin, _ in found[2:]} <= {"baseline", "random", "search"}
    assert [origin for origin, _ in found].count("search") >= 2
    assert searched(tmp_path, 9, other, one)[:8] == found  # resumed, and longer


def test_what_a_space_does_not_name_is_refused() -> None:
    with pytest.raises(InputError, match=f"unknown start for nb201 at 1x8x8: '{NAMED[0]}x'; did you mean '{NAMED[0]}'"):
        starts_within(SPACE, [], [f"{NAMED[0]}x"], print)
    # Its widths follow the number of patches, and 196 is none of the grammar's.
    with pytest.raises(InputError, match="--start mlp_mixer: it does not fit images of 3x28x28"):
        starts_within(EinSpace((3, 28, 28), 10), [], ["mlp_mixer"], print)


def test_what_is_over_budget_is_told_and_left_out() -> None:
    ms = {name: TableTarget(SPACE, TABLE, None).predict_ms(SPACE.parse(name)) for name in NAMED}
    slow, fast = max(ms, key=lambda name: ms[name]), min(ms, key=lambda name: ms[name])
    said: list[str] = []
    target = TableTarget(SPACE, TABLE, (ms[slow] + ms[fast]) / 2)
    assert starts_within(SPACE, [target, target], [slow, fast], said.append) == [(SPACE.parse(fast), "start")]
    (line,) = said
    assert line.startswith(f"start: {slow} is left out") and "on cpu are over the budget of" in line
