"""What is read back from trials that are still running."""

from pathlib import Path

import pytest
from fakes import made_up_table
from optuna.study import Study
from optuna.trial import Trial
from toy_space import ToySpace

from nas.search.record import describe, evaluated_trials, pending_architectures, unrated_ids
from nas.search.study import open_study
from search_spaces.architecture import Architecture
from search_spaces.space import enumerate_architectures

TOY = ToySpace((1, 8, 8), 10)
EVERY = list(enumerate_architectures(TOY))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study(tmp_path / "j", ["cpu"])


def started(study: Study, architecture: Architecture, described: bool = True) -> Trial:
    study.enqueue_trial(dict(architecture.decisions))
    trial = study.ask()
    taken = TOY.decide(lambda name, options: str(trial.suggest_categorical(name, options)))
    if described:
        describe(trial, TOY, taken, ["cpu"], [made_up_table(TOY).predict_ms(TOY.blocks(taken))])
    return trial


def test_pending_are_those_that_run_and_came_before(study: Study) -> None:
    trials = [started(study, EVERY[i]) for i in (4, 2, 4, 7)]
    assert pending_architectures(study, TOY, 4) == [EVERY[4], EVERY[2], EVERY[7]]  # each once
    assert pending_architectures(study, TOY, 3) == [EVERY[4], EVERY[2]]
    assert pending_architectures(study, TOY, 0) == []
    trials[1].set_user_attr("evaluated", True)
    study.tell(trials[1], [0.5, 0.1])
    assert pending_architectures(study, TOY, 4) == [EVERY[4], EVERY[7]]
    assert unrated_ids(study, 4) == {EVERY[4].id, EVERY[7].id}
    assert [rated.architecture for rated in evaluated_trials(study, TOY)] == [EVERY[2]]


def test_a_trial_that_does_not_know_its_architecture_yet_is_not_pending(study: Study) -> None:
    started(study, EVERY[3], described=False)
    started(study, EVERY[5])
    assert pending_architectures(study, TOY, 9) == [EVERY[5]]
