"""The cheap check before a candidate is trained: whether its network can learn at all.

In spaces whose operations are drawn freely some networks let no image through to the scores, or no gradient back.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from nas.training.data import Dataset, Split, to_tensor
from nas.training.hardware import device
from nas.training.objective import objective
from nas.training.recipe import Recipe
from nas.training.train import TrainingDiverged, fit

IMAGES, STEPS = 16, 30
# Scores that differ less from image to image (standard deviation, mean over the classes) differ by rounding alone.
LEAST_STD = 1e-5
# The last losses of the probe, whose mean is compared with the first.
_LAST = 5


class Unsound(RuntimeError):
    """The network cannot learn; the message says why."""


def require_sound(network: nn.Module, data: Dataset, seed: int) -> None:
    """Train a fresh network for ``STEPS`` steps on ``IMAGES`` training images; it is of no use afterwards.

    Raises:
        Unsound: its scores are not finite or the same for every image, or the loss does not fall below the first one.
    """
    rows = np.random.default_rng(seed).permutation(len(data.train))[:IMAGES]
    few = replace(data, train=Split(data.train.images[rows], data.train.labels[rows]))
    network.to(device(), memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    with torch.no_grad():
        scores = network(to_tensor(few.train.images, data.mean, data.std).to(device()))
    if not torch.isfinite(scores).all():
        raise Unsound("its scores are not finite")
    if scores.std(0).mean() <= LEAST_STD:
        raise Unsound("its scores are the same for every image")
    recipe = Recipe(STEPS, batch_size=IMAGES)
    losses: list[Tensor] = []

    def loss(images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        found = objective(network, recipe, None, images, labels, rng)
        losses.append(found.detach())
        return found

    try:
        fit(dict(network.named_parameters()), loss, few, recipe, seed)
    except TrainingDiverged as error:
        raise Unsound(str(error)) from None
    if not torch.stack(losses[-_LAST:]).mean() < losses[0]:
        raise Unsound(f"its loss does not fall in {STEPS} steps")
