"""The rank report compares ratings with training, and takes the combination only where it is clearly better."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nas.training.oracle import INHERITED, MACS, NASWOT, PARAMETERS, Task
from nas.training.report import COMBINATION, FEWEST, RankReport, choose_rating
from nas.training.train import Recipe
from predictors.agreement import share_ahead
from predictors.stacked import StackedRating, leave_one_out
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import sample

SPACE = FBNetSpace((1, 8, 8), 10)


def made_up(count: int, noise: float) -> tuple[dict[str, list[float]], list[float]]:
    """Return scores and accuracies; ``noise`` is that of the inherited accuracy, MACs tell the other half."""
    rng = np.random.default_rng(0)
    inherited, macs, other = rng.standard_normal((3, count))
    trained = stats.norm.cdf(inherited + (noise > 0) * macs + 0.1 * rng.standard_normal(count))
    scores = {INHERITED: stats.norm.cdf(inherited), MACS: np.exp(macs), PARAMETERS: np.exp(other), NASWOT: other}
    return {name: list(map(float, values)) for name, values in scores.items()}, list(map(float, trained))


def test_few_networks_decide_nothing() -> None:
    scores, trained = made_up(FEWEST - 1, 1)
    choice = choose_rating(scores, trained, 3)
    assert choice.rating is None and choice.combined is None
    assert choice.text.startswith("inherited accuracy (11 networks are too few") and "give 12 or more" in choice.text


def test_combination_that_is_clearly_ahead_is_taken() -> None:
    scores, trained = made_up(24, 1)
    choice = choose_rating(scores, trained, 3)
    assert choice.rating == StackedRating.fit(scores, trained)
    assert choice.combined == list(leave_one_out(scores, trained))
    assert choice.text.startswith("the combination, which predicts the accuracy after 3 epochs from scratch (ahead of ")


def test_inherited_accuracy_stays_where_chance_may_explain_it() -> None:
    scores, trained = made_up(24, 0)
    choice = choose_rating(scores, trained, 3)
    assert choice.rating is None and choice.combined is not None
    ahead = share_ahead(choice.combined, scores[INHERITED], trained)
    share = f"{100 * ahead:.0f} % of resamples"
    assert choice.text.startswith("inherited accuracy (the combination is ahead of ") and share in choice.text


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task(SPACE, "digits", None, tmp_path_factory.mktemp("data"), 0, None, Recipe(1))


@pytest.mark.parametrize(("count", "rows"), [(4, 4), (16, 5)])
def test_report_on_disk(count: int, rows: int, task: Task, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    networks = [sample(SPACE, rng) for _ in range(count)]
    trained = [float(SPACE.macs(a)) / 1e7 for a in networks]
    report = RankReport.of(task, networks, list(rng.random(count)), trained, 2)
    correlations = {label: text for label, text in report.lines.items() if label.startswith("Spearman of ")}
    assert len(correlations) == rows and correlations[f"Spearman of {MACS}"].startswith("+1.00 [+1.00")
    assert (f"Spearman of {COMBINATION}" in report.lines) is (count >= FEWEST)
    # Inherited accuracies are random here: what predicts from MACs is ahead.
    assert (report.rating is None) is (count < FEWEST)
    report.save(tmp_path / "ranks.json")
    assert RankReport.load(tmp_path / "ranks.json") == report
    (tmp_path / "ranks.json").write_text("{}")
    with pytest.raises(InputError, match="is not a rank report"):
        RankReport.load(tmp_path / "ranks.json")


def test_repeats_begin_with_other_weights(task: Task) -> None:
    architecture = sample(SPACE, np.random.default_rng(0))

    def weights(task: Task, repeat: int) -> Sequence[float]:
        state: Mapping[str, object] = task.fresh(architecture, repeat).state_dict()
        return state["layers.0.conv.weight"].flatten().tolist()  # type: ignore[attr-defined, no-any-return]

    assert weights(task, 0) != weights(task, 1) == weights(replace(task, seed=1), 0)
