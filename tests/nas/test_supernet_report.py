"""The honesty report: what is compared, what limits it, what it says; and trainings that are kept."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from fakes import Quiet, made_up_table
from scipy import stats

from latency.files import read_sealed
from nas.config import SearchConfig
from nas.folder import RunFolder, open_folder
from nas.supernet_report import (
    BY_BATCH,
    FREE_RANKS,
    SCHEMA_VERSION,
    SYNFLOW,
    Network,
    SupernetReport,
    Training,
    all_ranks,
    report_supernet,
)
from nas.training.oracle import INHERITED, MACS, NASWOT, PARAMETERS, SupernetOracle, Task, TrainOracle
from nas.training.report import COMBINATION
from nas.training.train import Recipe
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
ALL_RANKS = all_ranks(INHERITED)
RATINGS = {INHERITED, BY_BATCH, MACS, PARAMETERS, NASWOT, SYNFLOW, FREE_RANKS, ALL_RANKS, COMBINATION}


def made_up(inherited: float, free: float, seeds: int = 2, count: int = 24) -> list[Network]:
    """Return networks whose inherited accuracy and MACs are off by so much from what they learn."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        real = i / count
        inner, macs, other, more, synflow = rng.standard_normal(5)
        scores = {
            INHERITED: real + inherited * inner, BY_BATCH: real + inherited * inner, MACS: real + free * macs,
            PARAMETERS: other, NASWOT: more, SYNFLOW: synflow,
        }  # fmt: skip
        trained = list(map(float, real + 0.02 * rng.standard_normal(seeds)))
        found.append(Network(f"a{i}", str(i), 1 + real + 0.2 * rng.random(), scores, trained))
    return found


def test_rows_are_the_correlations_with_the_mean_of_the_trainings() -> None:
    networks = made_up(0.1, 0.2)
    report = SupernetReport.of(networks, 3)
    assert set(report.rows) == RATINGS and report.groups == 4
    truth = [np.mean(network.trained) for network in networks]
    for name in (INHERITED, MACS, SYNFLOW):
        rho = stats.spearmanr([network.scores[name] for network in networks], truth).statistic
        assert report.rows[name].overall.spearman.value == pytest.approx(rho)
    assert report.rows[INHERITED].within.spearman.value < report.rows[INHERITED].overall.spearman.value
    assert report.ceiling is not None and report.ceiling.spearman > 0.9


@pytest.mark.parametrize(
    ("inherited", "free", "said"),
    [
        (0.01, 1.0, r"^inherited.* orders best, beyond chance ahead of the best that costs nothing, .* in 100 %"),
        (0.15, 0.17, r" orders best, not beyond chance ahead of the best that costs nothing, MACs"),
        (1.0, 0.01, r"^MACs \(Spearman \+1.00\) orders best, and costs nothing; a search rates by the combination"),
    ],
)
def test_verdict(inherited: float, free: float, said: str) -> None:
    report = SupernetReport.of(made_up(inherited, free), 3)
    assert re.search(said, report.verdict) and "; a search rates by " in report.verdict, report.verdict


def test_one_training_has_no_ceiling(tmp_path: Path) -> None:
    console = Quiet()
    SupernetReport.of(made_up(0.1, 0.1, seeds=1), 3).show(console)
    assert {row[0] for row in console.rows} == RATINGS
    assert "how far seeds agree is not known: give --seeds 2 or more" in console.said


def test_report_is_kept_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_table(SPACE).save(tmp_path / "t.json")
    config = SearchConfig.checked(data="digits", out=tmp_path / "out", table=tmp_path / "t.json", supernet_steps=17)

    def reported(seeds: int, stop: str = "") -> SupernetReport:
        with open_folder(config, "nas supernet report") as folder:
            return report_supernet(config, 2, seeds, 1, folder, Quiet(stop))

    trained: list[tuple[str, int]] = []
    train = Training.__call__

    def counted(self: Training, job: tuple[object, int]) -> float:
        trained.append((job[0].id, job[1]))  # type: ignore[attr-defined]
        return train(self, job)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        reported(1, stop="training networks from scratch")
    assert len(trained) == 1
    both = reported(2)
    assert len(trained) == len(set(trained)) == 4
    one = reported(1)
    assert len(trained) == 4 and [n.trained for n in one.networks] == [n.trained[:1] for n in both.networks]

    folder = RunFolder(tmp_path / "out", {})
    task = Task(SPACE, "digits", None, folder.cache, 0, folder.supernet, Recipe(1))
    first = both.networks[0]
    architecture = SPACE.parse(first.architecture)
    assert first.scores[INHERITED] == SupernetOracle(task).rate(architecture)
    assert first.scores[MACS] == SPACE.macs(architecture) and set(first.scores) == RATINGS - {
        FREE_RANKS, ALL_RANKS, COMBINATION
    }  # fmt: skip
    # The first training is that of the rank check, on other images.
    monkeypatch.setattr(Task, "rating_split", property(lambda task: task.sampled(task.dataset.test)))
    assert first.trained[0] == TrainOracle(task, 1).rate(architecture)

    json, table = both.save(tmp_path)
    body = read_sealed(json, SCHEMA_VERSION, "report")
    assert [n["trained"] for n in body["networks"]] == [n.trained for n in both.networks]
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rating"] for row in rows] == list(both.rows)
    assert float(rows[0]["spearman"]) == pytest.approx(both.rows[INHERITED].overall.spearman.value, abs=1e-4)
