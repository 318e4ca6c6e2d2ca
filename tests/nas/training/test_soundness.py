"""The check before a training: networks that can learn pass, and each way of being broken is named."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas.search.executor import InProcess
from nas.training.data import Dataset, load_dataset
from nas.training.oracle import RungOracle, Task, TrainOracle
from nas.training.recipe import Recipe
from nas.training.soundness import Unsound, require_sound
from search_spaces.einspace.space import EinSpace
from search_spaces.nb201 import NB201Space

SPACE = NB201Space((1, 8, 8), 10)
WITHOUT_PATH = SPACE.parse(",".join(["none"] * 6))


class Linear(nn.Module):
    """A linear classifier of pixels; ``then`` is done to its scores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.then(self.layer(images.flatten(1)))

    def then(self, scores: Tensor) -> Tensor:
        return scores


class Blind(Linear):
    def then(self, scores: Tensor) -> Tensor:
        return scores.mean(0).expand_as(scores)


class Infinite(Linear):
    def then(self, scores: Tensor) -> Tensor:
        return scores / 0


class Diverging(Linear):
    """Finite at first; its gradient is not."""

    def then(self, scores: Tensor) -> Tensor:
        return scores + (scores - scores.detach()).abs().sqrt()


class Backwards(Linear):
    """Each step goes where the loss is higher."""

    def then(self, scores: Tensor) -> Tensor:
        return 2 * scores.detach() - scores


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("digits", None, 0)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return Task(SPACE, "digits", None, tmp_path_factory.mktemp("data"), 0, None, Recipe(1))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Blind, "the same for every image"),
        (Infinite, "scores are not finite"),
        (Diverging, "loss is no longer finite"),
        (Backwards, "does not fall in 30 steps"),
    ],
)
def test_what_cannot_learn_is_told_why(kind: type[Linear], reason: str, data: Dataset) -> None:
    with pytest.raises(Unsound, match=reason):
        require_sound(kind(), data, 0)


def test_what_can_learn_passes(data: Dataset) -> None:
    require_sound(Linear(), data, 0)
    space = EinSpace((1, 8, 8), 10)
    require_sound(space.build(space.baseline_family()[0]), data, 0)


def test_cells_without_a_path_are_not_trained(task: Task, tmp_path: Path) -> None:
    with pytest.raises(Unsound, match="the same for every image"):
        TrainOracle(task, 1).rate(WITHOUT_PATH)
    with pytest.raises(Unsound, match="the same for every image"):
        RungOracle(task, 1, tmp_path).rate((WITHOUT_PATH, 1))
    executor = InProcess(lambda: TrainOracle(task, 1).rate)
    executor.submit("one", WITHOUT_PATH)
    outcome = executor.next()
    assert outcome.unsound and outcome.error == "its scores are the same for every image"


def test_networks_that_are_to_be_ranked_are_trained_whatever_they_are(task: Task) -> None:
    assert 0 <= TrainOracle(task, 1, tried=False).rate(WITHOUT_PATH) < 0.2
