"""Block-wise training: no labels, one stage at a time, resumable; scores that follow the paper's formula."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_space import TinySpace

from nas.training import blockwise
from nas.training.blockwise import Blockwise, agreement, distance, score
from nas.training.checkpoint import losses
from nas.training.data import Dataset, Split, load_dataset
from nas.training.recipe import Recipe
from predictors.agreement import Agreement
from search_spaces.errors import InputError
from search_spaces.hybrid import HybridSpace
from search_spaces.nb201 import NB201Space
from search_spaces.space import SearchSpace, enumerate_architectures, sample
from search_spaces.stages import paths

SPACE = TinySpace()
RECIPE = Recipe(6, batch_size=32)  # two epochs a stage, of three steps
# The losses of 23 networks' paths through each of five blocks that the authors of BossNAS found, and the accuracies
# (%) of the networks on ImageNet (arXiv 2103.12424, table 4, and the released code).
PUBLISHED = """
75.52  -3.175865 -3.193411 -3.355093 -3.348088 -3.410942
75.00  -3.175865 -3.190954 -3.354661 -3.348302 -3.410853
74.66  -3.174152 -3.189143 -3.354851 -3.347900 -3.410709
74.79  -3.174152 -3.192957 -3.352296 -3.348225 -3.410634
74.76  -3.172972 -3.191757 -3.353574 -3.347933 -3.410803
74.46  -3.170740 -3.188542 -3.353253 -3.347723 -3.410830
74.93  -3.170740 -3.188076 -3.353508 -3.348096 -3.410858
74.766 -3.172758 -3.192296 -3.353889 -3.348010 -3.410655
74.36  -3.170916 -3.189619 -3.353515 -3.347859 -3.410632
74.43  -3.170916 -3.189786 -3.352090 -3.347657 -3.410551
74.57  -3.171110 -3.191699 -3.354456 -3.347608 -3.410413
74.52  -3.171110 -3.186844 -3.353682 -3.347735 -3.410729
74.89  -3.169276 -3.188872 -3.352955 -3.348025 -3.410657
74.55  -3.170201 -3.187823 -3.354124 -3.347955 -3.410843
74.34  -3.170201 -3.189575 -3.353076 -3.347600 -3.410522
74.62  -3.170221 -3.187490 -3.353631 -3.347959 -3.410751
74.03  -3.166712 -3.188590 -3.354786 -3.347758 -3.410366
74.33  -3.166712 -3.190977 -3.354216 -3.347694 -3.410848
74.14  -3.167401 -3.186596 -3.354462 -3.347647 -3.410720
73.86  -3.167401 -3.189014 -3.352595 -3.347638 -3.410660
74.38  -3.166572 -3.189138 -3.353591 -3.347318 -3.410584
73.85  -3.166801 -3.187865 -3.353375 -3.347549 -3.410570
73.58  -3.164201 -3.187837 -3.352227 -3.347569 -3.410428
"""


@pytest.fixture(scope="module")
def data() -> Dataset:
    """A few digits, so that an epoch is a few steps."""
    found = load_dataset("digits", 12, 0)
    train, val = (
        Split(part.images[:count], part.labels[:count]) for part, count in ((found.train, 96), (found.val, 40))
    )
    return replace(found, train=train, val=val)


@pytest.fixture(scope="module")
def trained(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Blockwise]:
    folder = tmp_path_factory.mktemp("blockwise")
    return folder, Blockwise(SPACE, data, RECIPE, 0).fit(folder)


def weights(found: Blockwise) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in found.supernet.parameters.items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_scores_correlate_with_accuracies_as_published() -> None:
    accuracies, *of_blocks = np.array([line.split() for line in PUBLISHED.split("\n") if line], float).T
    scores = [score(list(row)) for row in zip(*of_blocks, strict=True)]
    rounded = [round(each, 4) for each in scores]  # as the authors do, which decides the third digit of tau
    for found, tau, rho, linear in ((rounded, 0.6468, 0.7771, 0.8470), (scores, 0.6443, 0.7767, 0.8467)):
        compared = Agreement.of([-each for each in found], accuracies)
        assert compared.kendall.value == pytest.approx(tau, abs=5e-5)
        assert compared.spearman.value == pytest.approx(rho, abs=5e-5)
        assert np.corrcoef(found, accuracies)[0, 1] == pytest.approx(-linear, abs=1e-4)
    # What a search sees orders the networks in the same way.
    ratings = [agreement(list(row)) for row in zip(*of_blocks, strict=True)]
    assert Agreement.of(ratings, accuracies) == Agreement.of([-each for each in scores], accuracies)


@pytest.mark.parametrize(
    ("found", "total", "rating"),
    [([-4.0, -4.0], 0.0, 1.0), ([4.0], 8.0, 0.0), ([-3.0, -2.0], 3.0, 1 - 3 / 16), ([0.0, 0.0, 0.0], 12.0, 0.5)],
)
def test_score_and_rating_by_hand(found: list[float], total: float, rating: float) -> None:
    assert score(found) == total and agreement(found) == rating


def test_distance_is_that_of_directions() -> None:
    online, target = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert distance(online, online / 7) == -4 and distance(online, -online) == 4
    assert distance(online, target) == -2  # one row agrees, the other knows nothing


def test_losses_are_those_of_paths_against_their_mean(trained: tuple[Path, Blockwise]) -> None:
    _, found = trained
    for stage, losses_ in zip(found.stages, found.losses, strict=False):
        assert list(losses_) == paths(SPACE, stage, blockwise.POPULATION, 0)
        assert all(-4 <= loss <= 4 for loss in losses_.values()) and len(set(losses_.values())) > 1
    assert found.losses[-1] == {(0, 0): 0.0}
    for architecture in (sample(SPACE, np.random.default_rng(seed)) for seed in range(5)):
        listed = found.losses_of(architecture)
        assert listed == [
            each[stage.path(architecture)] for stage, each in zip(found.stages, found.losses, strict=False)
        ]
        assert 0 <= agreement(listed) <= 1
    assert list(found.lines()) == ["stage 1", "stage 2", "stage 3"] and "73 paths, losses" in found.lines()["stage 3"]


def test_no_label_is_looked_at(data: Dataset, trained: tuple[Path, Blockwise], tmp_path: Path) -> None:
    blind = {part: Split(split.images, split.labels * 0) for part, split in (("train", data.train), ("val", data.val))}
    other = Blockwise(SPACE, replace(data, **blind), RECIPE, 0).fit(tmp_path)
    assert equal(weights(other), weights(trained[1])) and other.losses == trained[1].losses


def test_stages_learn_and_stay_as_they_are(trained: tuple[Path, Blockwise], data: Dataset) -> None:
    folder, found = trained
    untrained, last = weights(Blockwise(SPACE, data, RECIPE, 0)), weights(found)
    for number, stage in enumerate(found.stages, 1):
        first, second = losses(folder / f"stage{number}.safetensors")
        assert -4 <= second < first <= 4
        kept = load_file(folder / f"stage{number}.safetensors")
        own = [name for name in last if int(name.split(".")[1]) in range(stage.start, stage.stop)]
        # Those behind it have changed nothing, and its target has followed it.
        assert own and all(torch.equal(kept[name], last[name]) for name in own)
        moved = [name for name in own if not torch.equal(last[name], untrained[name])]
        assert len(moved) > len(own) / 2
        for name in moved:
            way = (last[name] - untrained[name]).norm()
            assert 0 < (kept[f"target.{name}"] - untrained[name]).norm() < way
    head = [name for name in last if int(name.split(".")[1]) >= found.head.start]
    assert head and all(torch.equal(last[name], untrained[name]) for name in head)


@pytest.mark.parametrize("stop_at", [1, 5])  # within a stage, and before its paths are rated
def test_resumes_to_the_same_weights_and_losses(
    stop_at: int, trained: tuple[Path, Blockwise], data: Dataset, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 9  # two epochs and the rating of paths, three times
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Blockwise(SPACE, data, RECIPE, 0).fit(tmp_path, stop)
    told: list[int] = []
    resumed = Blockwise(SPACE, data, RECIPE, 0).fit(tmp_path, lambda done, _: told.append(done))
    assert equal(weights(resumed), weights(trained[1])) and resumed.losses == trained[1].losses
    assert told == sorted(told) and told[-1] == 9


def test_trained_stages_are_read_without_a_step(
    trained: tuple[Path, Blockwise], data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> float:
        raise AssertionError("a step, or a path rated anew")

    folder, found = trained
    with monkeypatch.context() as patch:
        patch.setattr(blockwise, "mean_loss", never)
        patch.setattr(blockwise._Population, "_distance", never)
        read = Blockwise(SPACE, data, RECIPE, 0).fit(folder)
    assert equal(weights(read), weights(found)) and read.losses == found.losses
    # Rated one by one, paths get what they got with all others.
    for stage, population in zip(read.stages, read._populations, strict=True):
        path = stage.path(sample(SPACE, np.random.default_rng(1)))
        assert population._distance(path) == population.losses[path]


def test_paths_that_were_not_drawn_are_rated_when_asked_for(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "POPULATION", 6)
    found = Blockwise(SPACE, data, replace(RECIPE, epochs=3), 0).fit(tmp_path)
    assert [len(each) for each in found.losses] == [2, 6, 6, 1] and "6 paths drawn" in found.lines()["stage 3"]
    everything = list(enumerate_architectures(SPACE))[::97]
    one_way = [found.losses_of(architecture) for architecture in everything]
    again = Blockwise(SPACE, data, replace(RECIPE, epochs=3), 0).fit(tmp_path)
    assert [again.losses_of(architecture) for architecture in reversed(everything)] == one_way[::-1]
    assert [len(each) for each in found.losses] == [2, 6, 6, 1]
    assert all(math.isfinite(loss) and -4 <= loss <= 4 for listed in one_way for loss in listed)


@pytest.mark.parametrize("space", [NB201Space((1, 8, 8), 10), HybridSpace((1, 28, 28), 10, "fabric-28")])
def test_networks_without_stages_are_refused(space: SearchSpace, data: Dataset) -> None:
    with pytest.raises(
        InputError, match=r"^--oracle blockwise trains stages .* which networks of .* give --oracle sup"
    ):
        Blockwise(space, data, RECIPE, 0)


def test_files_of_another_training_or_damaged_are_refused(
    trained: tuple[Path, Blockwise], data: Dataset, tmp_path: Path
) -> None:
    folder, _ = trained
    with pytest.raises(InputError, match=r"stage1.safetensors was made with another network, other data or another"):
        Blockwise(SPACE, data, replace(RECIPE, epochs=9), 0).fit(folder)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "paths2.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"paths2.safetensors is damaged; delete it to start anew"):
        Blockwise(SPACE, data, RECIPE, 0).fit(tmp_path)
