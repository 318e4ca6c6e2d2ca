"""A search by block-wise scores in miniature: what it proposes, how its numbers are called, and its report."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import Quiet, few_digits, made_up_table, measuring_little

from dashboards.figures import front_figure
from nas.config import SearchConfig
from nas.delivery.curves import learning_curves
from nas.delivery.front import Front
from nas.folder import open_folder, read_record
from nas.reuse import inherit
from nas.run import run_search
from nas.search.additive import BUDGETS, best_within
from nas.search.record import evaluated_trials, trials_table
from nas.search.study import read_study
from nas.search.target import TableTarget
from nas.supernet_report import SYNFLOW, SupernetReport, all_ranks, report_supernet
from nas.training import blockwise
from nas.training.blockwise import agreement
from nas.training.oracle import BLOCKWISE, MACS, NASWOT, PARAMETERS, Task
from nas.training.recipe import Recipe
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
TRIALS = 10


@pytest.fixture(scope="module", autouse=True)
def little_work() -> Iterator[None]:
    with measuring_little() as patch:
        patch.setattr("nas.run.all_cores", nullcontext)  # threads cost more than they bring for so few images
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few images, a table and a run."""
    folder = tmp_path_factory.mktemp("blockwise")
    few_digits(folder / "digits.npz")
    made_up_table(SPACE).save(folder / "cpu.json")
    search(configured(folder, "run"))
    return folder


def configured(place: Path, out: str, **changes: Any) -> SearchConfig:
    settings: dict[str, Any] = {"trials": TRIALS, "supernet_steps": 2, "finalists": 2, "family": 1, "final_epochs": 1}
    return SearchConfig.checked(
        data=str(place / "digits.npz"), out=place / out, table=place / "cpu.json", oracle="blockwise",
        **{**settings, **changes},
    )  # fmt: skip


def search(config: SearchConfig) -> tuple[Front, Quiet]:
    console = Quiet()
    with open_folder(config, "nas search") as folder:
        front = run_search(config, folder, console)
        folder.save()
    return front, console


def task_of(run: Path, data: Path) -> Task:
    return Task(SPACE, str(data), None, run / "data", 0, run / "blockwise", Recipe(1), blockwise=True)


def test_the_highest_scores_are_proposed_first(place: Path) -> None:
    study = read_study(place / "run" / "study.journal")
    trained = task_of(place / "run", place / "digits.npz").train_blockwise()
    best = best_within(SPACE, trained.parts, trained.losses, [TableTarget(SPACE, made_up_table(SPACE), None)], 0)
    assert 1 < len(best) <= BUDGETS
    first = [SPACE.parse(trial.user_attrs["architecture"]) for trial in study.trials[: len(best)]]
    assert first == best
    rated = evaluated_trials(study, SPACE)
    for trial in rated:
        assert trial.accuracy == pytest.approx(agreement(trained.losses_of(trial.architecture)), abs=1e-6)
    # No candidate that is as fast has a higher score.
    for trial in rated[: len(best)]:
        assert trial.accuracy >= max(other.accuracy for other in rated if other.ms <= trial.ms) - 1e-4


def test_scores_are_called_so_everywhere(place: Path) -> None:
    study, front = read_study(place / "run" / "study.journal"), Front.load(place / "run")
    assert study.metric_names == [BLOCKWISE, "predicted_ms cpu"]
    record = read_record(place / "run")
    assert list(record["report"]["block-wise supernet"]) == [f"stage {number}" for number in range(1, 6)]
    assert f"{BLOCKWISE} predictor, cross-validated" in record["report"]
    assert not (place / "run" / "ranks.json").exists()  # which would take labels
    device = front.devices[0]
    found = [candidate for candidate in (*device.candidates, *device.rejected) if candidate.search_score is not None]
    assert found and all(c.search_accuracy is None and 0 < c.search_score <= 1 for c in found)  # type: ignore[operator]
    table = trials_table(study, device.metric)
    assert table["accuracy"].isna().all() and table["score"].notna().sum() == len(table) == TRIALS
    assert f"{TRIALS} rated by scores, which are no accuracies" in front_figure(table, device).layout.title.text
    names = [curve.name for curve in learning_curves(place / "run")]
    assert names[:5] == [f"stage{number}, without labels" for number in range(1, 6)]


def test_again_does_nothing_anew(place: Path) -> None:
    before = {path: path.read_bytes() for path in (place / "run" / "blockwise").iterdir()}
    trials = len(read_study(place / "run" / "study.journal").trials)
    front, _ = search(configured(place, "run"))
    assert front == Front.load(place / "run") and trials == len(read_study(place / "run" / "study.journal").trials)
    assert {path: path.read_bytes() for path in before} == before


def test_another_budget_takes_the_stages_over(place: Path) -> None:
    ms = np.median([trial.ms for trial in evaluated_trials(read_study(place / "run" / "study.journal"), SPACE)])
    given = {"out": place / "second", "budget_ms": float(ms), "trials": 4, "table": place / "cpu.json"}
    _, console = search(inherit(place / "run", given))
    assert any(text.startswith("reused from") and text.endswith(", the supernet") for text in console.said)
    for file in (place / "run" / "blockwise").iterdir():
        assert file.samefile(place / "second" / "blockwise" / file.name)


def test_report(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "POPULATION", 9)
    config = configured(place, "report")
    with open_folder(config, "nas supernet report") as folder:
        report = report_supernet(config, 3, 1, 1, folder, Quiet())
    assert set(report.networks[0].scores) == {BLOCKWISE, MACS, PARAMETERS, NASWOT, SYNFLOW}
    assert {BLOCKWISE, all_ranks(BLOCKWISE)} < report.rows.keys()
    assert report.verdict.endswith(f"; a search rates by {BLOCKWISE}") and isinstance(report, SupernetReport)
    task = task_of(place / "report", place / "digits.npz")
    for network in report.networks:
        found = task.train_blockwise().losses_of(SPACE.parse(network.architecture))
        assert network.scores[BLOCKWISE] == pytest.approx(agreement(found), abs=1e-6)
