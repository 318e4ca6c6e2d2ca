"""What every oracle must do: rate in [0, 1], the same for the same architecture, and better than chance."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from fakes import digits_task, few_digits

from nas.training.oracle import (
    INHERITED,
    NASWOT,
    AccuracyOracle,
    BlockwiseOracle,
    OracleKind,
    RungOracle,
    SupernetOracle,
    Task,
    TrainOracle,
    counts,
    make_oracle,
    rating_name,
    rung_checkpoint,
)
from nas.training.train import Recipe, train
from predictors.stacked import StackedRating
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
BIG = SPACE.parse("k5_e6,k3_e6,k3_e6,k5_e6,k3_e6,k5_e6,k3_e6,k3_e6")
SMALL = SPACE.parse("k3_e1,k3_e1_g2,skip,k3_e1,skip,k3_e1,skip,skip")
MIDDLE = SPACE.parse("skip,k3_e3,skip,k5_e1,skip,k3_e3,k3_e1,k5_e1_g2")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return digits_task(SPACE, tmp_path_factory.mktemp("task"), supernet_epochs=10)


@pytest.fixture(scope="module")
def task(kind: OracleKind, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Task:
    if kind != "blockwise":
        found: Task = request.getfixturevalue("labelled")
        return found
    folder = tmp_path_factory.mktemp("blockwise")
    data = str(few_digits(folder / "digits.npz"))
    return Task(SPACE, data, None, folder / "data", 0, folder / "blockwise", Recipe(10), blockwise=True)


@pytest.fixture(params=get_args(OracleKind), scope="module")
def kind(request: pytest.FixtureRequest) -> OracleKind:
    return request.param


@pytest.fixture(scope="module")
def oracle(kind: OracleKind, task: Task) -> AccuracyOracle:
    return make_oracle(kind, task, 2)


@pytest.fixture(scope="module")
def ratings(oracle: AccuracyOracle) -> dict[Architecture, float]:
    return {architecture: oracle.rate(architecture) for architecture in (BIG, SMALL, MIDDLE)}


def test_kinds(oracle: AccuracyOracle, kind: OracleKind) -> None:
    assert isinstance(oracle, {"supernet": SupernetOracle, "blockwise": BlockwiseOracle, "train": TrainOracle}[kind])


def test_ratings_are_shares_of_the_rating_split(
    ratings: dict[Architecture, float], kind: OracleKind, task: Task
) -> None:
    images = len(task.rating_split)
    for rating in ratings.values():
        assert 0 <= rating <= 1
        assert kind == "blockwise" or rating * images == pytest.approx(round(rating * images))


def test_same_rating_in_any_order_and_at_any_time(
    oracle: AccuracyOracle, ratings: dict[Architecture, float], kind: OracleKind, task: Task
) -> None:
    torch.manual_seed(12345)
    torch.rand(10)
    for architecture in (MIDDLE, MIDDLE, SMALL, BIG):
        assert oracle.rate(architecture) == ratings[architecture]
    # As another worker makes it, from what it is sent.
    other = make_oracle(kind, pickle.loads(pickle.dumps(task)), 2)
    assert other.rate(SMALL) == ratings[SMALL]


def test_predicted_ratings(labelled: Task) -> None:
    """A combination of scores is the rating, in this process and in a worker."""
    plain, networks = SupernetOracle(labelled), [BIG, SMALL, MIDDLE]
    scores = {
        INHERITED: [plain.rate(a) for a in networks],
        **counts(SPACE, networks),
        NASWOT: [labelled.naswot(a) for a in networks],
    }
    combination = StackedRating.fit(scores, [0.9, 0.3, 0.6])
    sent = pickle.loads(pickle.dumps(replace(labelled, rating=combination)))
    oracle = make_oracle("supernet", sent, 2)
    rated = [oracle.rate(a) for a in networks]
    # Many at once are summed up in another order.
    assert rated == pytest.approx(list(combination.predict(scores)), rel=1e-12) and rated != scores[INHERITED]
    assert 1 >= rated[0] > rated[2] > rated[1] >= 0
    assert [oracle.rate(a) for a in reversed(networks)] == rated[::-1]


def test_big_network_is_better_than_chance(ratings: dict[Architecture, float], kind: OracleKind) -> None:
    assert ratings[BIG] > (0.5 if kind == "blockwise" else 0.2)  # directions that know nothing of each other have 0.5
    assert rating_name(kind) == ("block-wise score" if kind == "blockwise" else "accuracy")


def test_rating_split_is_a_fixed_sample_of_validation(labelled: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(labelled.rating_split) == len(labelled.dataset.val)
    monkeypatch.setattr("nas.training.oracle.RATING_IMAGES", 50)
    one, other = (Task(SPACE, "digits", None, labelled.cache, 0, None, Recipe(1)).rating_split for _ in range(2))
    assert len(one) == 50 and (one.images == other.images).all() and (one.labels == other.labels).all()


def test_task_travels_without_its_images(labelled: Task) -> None:
    assert len(labelled.dataset.train) > 0
    content = pickle.dumps(labelled)
    assert len(content) < 50_000
    travelled = pickle.loads(content)
    assert replace(travelled, space=SPACE) == labelled and travelled.space.name == SPACE.name
    assert travelled.dataset.digest == labelled.dataset.digest


def test_fresh_networks_depend_on_seed_and_architecture_alone(labelled: Task, tmp_path: Path) -> None:
    first = labelled.fresh(SMALL).state_dict()
    torch.rand(3)
    again = labelled.fresh(SMALL).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = Task(SPACE, "digits", None, tmp_path, 1, None, Recipe(1)).fresh(SMALL).state_dict()
    assert not torch.equal(first["layers.0.conv.weight"], other["layers.0.conv.weight"])


def test_training_in_rungs_ends_where_training_in_one_go_does(labelled: Task, tmp_path: Path) -> None:
    oracle, other = (RungOracle(labelled, 3, tmp_path / name) for name in ("one", "other"))
    rated = [oracle.rate((MIDDLE, epochs)) for epochs in (1, 2, 3)]
    assert rated[-1] == TrainOracle(labelled, 3).rate(MIDDLE)
    # A lost worker's job is run again: from its checkpoint, from a later one, or from nothing.
    again = pickle.loads(pickle.dumps(oracle))
    assert again.rate((MIDDLE, 3)) == rated[-1]
    assert [other.rate((MIDDLE, 2)), other.rate((MIDDLE, 2))] == [rated[1]] * 2
    with pytest.raises(InputError, match="is past epoch 1; delete it"):
        other.rate((MIDDLE, 1))
    assert [path.name for path in (tmp_path / "one").iterdir()] == [rung_checkpoint(tmp_path, MIDDLE).name]


def test_rungs_follow_the_schedule_of_the_whole_training(labelled: Task, tmp_path: Path) -> None:
    # One epoch of three is another training than one epoch of one, whose learning rate falls to zero.
    networks = []
    for epochs in (1, 3):
        path = tmp_path / f"{epochs}.safetensors"
        networks.append(
            train(labelled.fresh(MIDDLE), labelled.dataset, Recipe(epochs), labelled.seed, path, until=1).state_dict()
        )
    assert any(not torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
