"""Mixed batches are what the papers' formulas say, and losses what soft labels written out give."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.training.objective import TEMPERATURE, mix, objective
from nas.training.recipe import Recipe

IMAGES = torch.randn(8, 3, 10, 12, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
LABELS = torch.arange(8) % 5


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_off_leaves_the_batch_and_the_randomness_alone() -> None:
    drawn = rng()
    mixed = mix(IMAGES, LABELS, Recipe(1), drawn)
    assert mixed.images is IMAGES and mixed.labels is LABELS and mixed.share == 1
    assert drawn.random() == rng().random()


def partners(mixed: Tensor, others: Tensor) -> list[list[int]]:
    """Return which images may be the others, by their labels."""
    return [[int(i) for i in (label == LABELS).nonzero()] for label in others]


@pytest.mark.parametrize("seed", range(5))
def test_mixup_is_a_weighted_sum(seed: int) -> None:
    before = IMAGES.clone()
    mixed = mix(IMAGES, LABELS, Recipe(1, mixup=0.4), rng(seed))
    assert torch.equal(IMAGES, before) and 0 <= mixed.share <= 1 and torch.equal(mixed.labels, LABELS)
    assert sorted(mixed.others.tolist()) == sorted(LABELS.tolist())
    for i, candidates in enumerate(partners(mixed.images, mixed.others)):
        sums = [mixed.share * IMAGES[i] + (1 - mixed.share) * IMAGES[j] for j in candidates]
        assert any(torch.allclose(mixed.images[i], found, atol=1e-6) for found in sums)


@pytest.mark.parametrize("seed", range(10))
def test_cutmix_pastes_one_rectangle_whose_area_is_the_share(seed: int) -> None:
    before = IMAGES.clone()
    mixed = mix(IMAGES, LABELS, Recipe(1, cutmix=1.0), rng(seed))
    assert torch.equal(IMAGES, before)
    changed = (mixed.images != IMAGES).all(1)
    union = changed.any(0)
    if union.any():
        rows, columns = union.any(1).nonzero().flatten(), union.any(0).nonzero().flatten()
        assert len(rows) * len(columns) == union.sum()
        assert len(rows) == rows[-1] - rows[0] + 1 and len(columns) == columns[-1] - columns[0] + 1
    assert mixed.share == pytest.approx(1 - int(union.sum()) / 120)
    for i, candidates in enumerate(partners(mixed.images, mixed.others)):
        pasted = [torch.where(union, IMAGES[j], IMAGES[i]) for j in candidates]
        assert any(torch.equal(mixed.images[i], found) for found in pasted)


def test_shares_follow_the_beta_distribution() -> None:
    shares = [mix(IMAGES, LABELS, Recipe(1, mixup=0.3), rng(seed)).share for seed in range(2000)]
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)
    assert np.var(shares) == pytest.approx(1 / (4 * 1.6), rel=0.1)


def test_both_ways_take_turns() -> None:
    recipe = Recipe(1, mixup=1.0, cutmix=1.0)
    pasted = [bool(torch.isin(mix(IMAGES, LABELS, recipe, rng(n)).images, IMAGES).all()) for n in range(200)]
    assert 60 < sum(pasted) < 140


def test_memory_format_is_kept() -> None:
    for recipe in (Recipe(1, mixup=1.0), Recipe(1, cutmix=1.0)):
        mixed = mix(IMAGES, LABELS, recipe, rng(1))
        assert mixed.images.is_contiguous(memory_format=torch.channels_last)


class Linear(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(360, 5, generator=torch.Generator().manual_seed(seed)) / 20)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(1),
        Recipe(1, label_smoothing=0.2),
        Recipe(1, mixup=0.5),
        Recipe(1, cutmix=1.0, label_smoothing=0.1),
    ],
    ids=str,
)
def test_loss_is_that_of_soft_labels(recipe: Recipe) -> None:
    network = Linear(0)
    mixed = mix(IMAGES, LABELS, recipe, rng(3))
    targets = mixed.share * F.one_hot(LABELS, 5) + (1 - mixed.share) * F.one_hot(mixed.others, 5)
    targets = (1 - recipe.label_smoothing) * targets + recipe.label_smoothing / 5
    logs = torch.log_softmax(network(mixed.images), 1)
    loss = objective(network, recipe, None, IMAGES, LABELS, rng(3))
    torch.testing.assert_close(loss, -(targets * logs).sum(1).mean())


def test_plain_loss_is_exactly_the_cross_entropy() -> None:
    network = Linear(0)
    loss = objective(network, Recipe(1), None, IMAGES, LABELS, rng())
    assert torch.equal(loss, F.cross_entropy(network(IMAGES), LABELS))


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_teacher_is_imitated_on_the_same_images(mixup: float) -> None:
    network, teacher, recipe = Linear(0), Linear(1), Recipe(1, mixup=mixup, distil=0.7)
    images = mix(IMAGES, LABELS, recipe, rng(3)).images
    plain = objective(network, recipe, None, IMAGES, LABELS, rng(3))
    soft = torch.softmax(teacher(images) / TEMPERATURE, 1)
    logs = torch.log_softmax(network(images) / TEMPERATURE, 1)
    distance = (soft * (soft.log() - logs)).sum(1).mean()
    loss = objective(network, recipe, teacher, IMAGES, LABELS, rng(3))
    torch.testing.assert_close(loss, 0.3 * plain + 0.7 * TEMPERATURE**2 * distance)
    loss.backward()
    assert teacher.weight.grad is None and network.weight.grad is not None


def test_own_teacher_has_nothing_to_teach() -> None:
    network = Linear(0)
    loss = objective(network, Recipe(1, distil=1.0), network, IMAGES, LABELS, rng())
    assert math.isclose(loss.item(), 0, abs_tol=1e-6)
