"""What a batch is trained on: images mixed in pairs, smoothed labels, and a teacher's scores."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.training.hardware import scores
from nas.training.recipe import Recipe

TEMPERATURE = 4.0
"""By which scores are divided where a teacher is imitated: what it takes for likely beside the best shows."""


@dataclass(frozen=True)
class Mixed:
    """Images (N, C, H, W) of which ``share`` is labelled ``labels`` (N,) and the rest ``others`` (N,)."""

    images: Tensor
    labels: Tensor
    others: Tensor
    share: float

    def cross_entropy(self, found: Tensor, label_smoothing: float) -> Tensor:
        """Return the mean cross-entropy of the scores (N, classes) with both labels by their shares."""
        loss = F.cross_entropy(found, self.labels, label_smoothing=label_smoothing)
        if self.share == 1:
            return loss
        other = F.cross_entropy(found, self.others, label_smoothing=label_smoothing)
        return self.share * loss + (1 - self.share) * other


def mix(images: Tensor, labels: Tensor, recipe: Recipe, rng: np.random.Generator) -> Mixed:
    """Mix each image with another of its batch as ``recipe`` says; all in the same way, as the papers' authors do."""
    ways = [(_mixup, recipe.mixup), (_cutmix, recipe.cutmix)]
    chosen = [(way, alpha) for way, alpha in ways if alpha]
    if not chosen:
        return Mixed(images, labels, labels, 1.0)
    way, alpha = chosen[int(rng.integers(len(chosen)))] if len(chosen) > 1 else chosen[0]
    share = float(rng.beta(alpha, alpha))
    order = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    mixed, share = way(images, order, share, rng)
    return Mixed(mixed, labels, labels[order], share)


def _mixup(images: Tensor, order: Tensor, share: float, _: np.random.Generator) -> tuple[Tensor, float]:
    return share * images + (1 - share) * images[order], share


def _cutmix(images: Tensor, order: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Cut out a rectangle around a random pixel; where the border cuts it off, ``share`` is what is left of the image.

    It has the image's proportions (arXiv 1905.04899, section 3.1).
    """
    height, width = images.shape[2:]
    side = (1 - share) ** 0.5
    y, x = rng.integers(height), rng.integers(width)
    top, bottom = (int(np.clip(y + sign * round(side * height / 2), 0, height)) for sign in (-1, 1))
    left, right = (int(np.clip(x + sign * round(side * width / 2), 0, width)) for sign in (-1, 1))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def objective(
    network: nn.Module,
    recipe: Recipe,
    teacher: nn.Module | None,
    images: Tensor,
    labels: Tensor,
    rng: np.random.Generator,
) -> Tensor:
    """Return the loss of ``network`` on a batch.

    The teacher sees the very images that the network sees (arXiv 2106.05237, section 3.1).
    """
    batch = mix(images, labels, recipe, rng)
    found = scores(network, batch.images)
    loss = batch.cross_entropy(found, recipe.label_smoothing)
    if teacher is None:
        return loss
    with torch.no_grad():
        taught = scores(teacher, batch.images)
    return (1 - recipe.distil) * loss + recipe.distil * _distance(found, taught)


def _distance(found: Tensor, taught: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of softened scores, scaled so that gradients keep their size.

    Hinton, Vinyals and Dean, arXiv 1503.02531, section 2.
    """
    log_found, log_taught = (F.log_softmax(each / TEMPERATURE, dim=1) for each in (found, taught))
    return TEMPERATURE**2 * F.kl_div(log_found, log_taught, reduction="batchmean", log_target=True)
