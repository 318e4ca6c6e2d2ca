"""The journal reads back as Optuna's does, and waits for the disk once per trial."""

import os
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from nas.search.journal import TrialJournal


def run(path: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.create_study(storage=JournalStorage(TrialJournal(str(path))), study_name="s")
    for number in range(3):
        trial = study.ask()
        trial.suggest_categorical("x", ["a", "b"])
        trial.set_user_attr("number", number)
        study.tell(trial, float(number))
    study.ask()
    return study.trials


def test_optuna_reads_it(tmp_path: Path) -> None:
    trials = run(tmp_path / "j")
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "j")))
    assert optuna.load_study(study_name="s", storage=storage).trials == trials


def test_disk_is_waited_for_when_a_trial_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: sizes.append((tmp_path / "j").stat().st_size))
    run(tmp_path / "j")
    assert len(sizes) == 4  # the study, and each of three trials
    # What is waited for includes the line that ends the trial.
    lines = (tmp_path / "j").read_bytes()
    assert all(lines[size - 1 : size] == b"\n" for size in sizes)
    assert [lines[:size].count(b'"state":1') for size in sizes] == [0, 1, 2, 3]
