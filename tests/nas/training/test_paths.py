"""What an update trains: each candidate once, or the largest path and those that it teaches; gradients add up."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.training.data import Dataset, Split, load_dataset, to_tensor
from nas.training.paths import PathKind, fair_paths, mean_loss, path_loss, require_paths
from nas.training.supernet import Supernet
from nas.training.train import Recipe
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.extremes import largest, smallest
from search_spaces.fbnet import OPTIONS, FBNetSpace
from search_spaces.grid import Grid
from search_spaces.nb201 import NB201Space

SPACE = FBNetSpace((1, 8, 8), 10)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("digits", None, 0)


@pytest.fixture(scope="module")
def images(data: Dataset) -> Tensor:
    return to_tensor(np.asarray(data.train.images[:8]), data.mean, data.std)


LABELS = torch.arange(8)


def test_fair_paths_take_every_candidate_of_each_layer_once() -> None:
    rng = np.random.default_rng(0)
    first, second = (fair_paths(SPACE, SPACE.grid(), rng) for _ in range(2))
    assert first != second
    for paths in (first, second):
        for layer in zip(*(path.decisions for path in paths), strict=True):
            assert len({name for name, _ in layer}) == 1
            assert sorted(option for _, option in layer) == sorted(OPTIONS)


def test_decisions_with_fewer_options_take_theirs_in_turn() -> None:
    grid = Grid({"a": tuple("vwxyz"), "b": tuple("pq"), "c": ("o",)}, [], [], lambda rows: rows)
    paths = [dict(path.decisions) for path in fair_paths(SPACE, grid, np.random.default_rng(0))]
    assert Counter(path["a"] for path in paths) == Counter("vwxyz")
    assert sorted(Counter(path["b"] for path in paths).values()) == [2, 3]
    assert Counter(path["c"] for path in paths) == {"o": 5}


def test_fair_takes_independent_decisions() -> None:
    said = "of nb201 depend on each other: give single or sandwich"
    space = NB201Space((1, 8, 8), 10)
    with pytest.raises(InputError, match=said):
        require_paths("fair", space)
    with pytest.raises(InputError, match=said):
        path_loss("fair", space, Supernet(space, 0).forward, [])
    assert require_paths("sandwich", space) is None


def test_gradients_of_a_mean_are_those_of_all_at_once() -> None:
    first, second, unused = (torch.randn(3, requires_grad=True) for _ in range(3))
    parts = [lambda: (first**2).sum(), lambda: (first * second).sum(), lambda: second.exp().sum()]
    whole = torch.stack([part() for part in parts]).mean()
    expected = torch.autograd.grad(whole, [first, second])
    found = mean_loss((part() for part in parts), [first, second, unused])  # type: ignore[list-item]
    found.backward()
    assert float(found.detach()) == pytest.approx(float(whole.detach()))
    torch.testing.assert_close([first.grad, second.grad], list(expected))
    assert unused.grad is None


def gradients(supernet: Supernet, loss: Tensor) -> dict[str, Tensor]:
    for parameter in supernet.parameters.values():
        parameter.grad = None
    loss.backward()
    return {name: p.grad for name, p in supernet.parameters.items() if p.grad is not None}


def test_sandwich_is_what_its_paper_says(images: Tensor) -> None:
    supernet, asked = Supernet(SPACE, 0), list[Architecture]()

    def forward(path: Architecture, batch: Tensor) -> Tensor:
        asked.append(path)
        return supernet.forward(path, batch)

    loss = path_loss("sandwich", SPACE, forward, list(supernet.parameters.values()))
    found = gradients(supernet, loss(images, LABELS, np.random.default_rng(0)))
    assert asked[:2] == [largest(SPACE), smallest(SPACE)] and len(set(asked)) == 4
    with torch.no_grad():
        soft = supernet.forward(asked[0], images).softmax(1)
    by_hand = F.cross_entropy(supernet.forward(asked[0], images), LABELS)
    for path in asked[1:]:
        by_hand = by_hand - (soft * supernet.forward(path, images).log_softmax(1)).sum(1).mean()
    expected = gradients(supernet, by_hand / 4)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def test_fair_update_reaches_every_weight(images: Tensor) -> None:
    supernet = Supernet(SPACE, 0)
    loss = path_loss("fair", SPACE, supernet.forward, list(supernet.parameters.values()))
    assert gradients(supernet, loss(images, LABELS, np.random.default_rng(0))).keys() == supernet.parameters.keys()


@pytest.mark.parametrize("kind", ["fair", "sandwich"])
def test_resumes_to_the_same_weights(kind: PathKind, data: Dataset, tmp_path: Path) -> None:
    recipe, few = Recipe(3), replace(data, train=Split(data.train.images[:100], data.train.labels[:100]))
    straight = Supernet(SPACE, 0).fit(few, recipe, 0, tmp_path / "straight", lambda *_: None, kind)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Supernet(SPACE, 0).fit(few, recipe, 0, tmp_path / "stopped", stop, kind)
    resumed = Supernet(SPACE, 0).fit(few, recipe, 0, tmp_path / "stopped", lambda *_: None, kind)
    assert all(torch.equal(p, resumed.parameters[name]) for name, p in straight.parameters.items())
    untrained = Supernet(SPACE, 0).parameters
    assert not any(torch.equal(p, untrained[name]) for name, p in straight.parameters.items() if p.dim() > 1)
