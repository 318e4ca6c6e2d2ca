"""Recipes: the settings of a training, and those of the final one."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up over ``warmup`` steps, cosine decay to zero, clipped gradients.

    What is 0 is off:

    - ``label_smoothing``: share of each label that is spread over all classes (Szegedy et al., arXiv 1512.00567).
    - ``mixup``, ``cutmix``: images are mixed in pairs by shares from Beta(a, a), as weighted sums (arXiv 1710.09412)
      or as a rectangle of the one in the other (arXiv 1905.04899); batches take turns at random where both are on.
    - ``ema``: decay per step of the exponential average of the weights, which is what the training yields.
    - ``distil``: share of the loss that is the distance from a teacher's softened scores (arXiv 1503.02531).
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.1
    warmup: int = 20
    weight_decay: float = 1e-4
    clip: float = 5.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    distil: float = 0.0

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of ``step`` out of ``steps``."""
        warm = min(1.0, (step + 1) / self.warmup)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))

    def decay(self, step: int) -> float:
        """Return the decay of the average at ``step``: small at first, so that the average forgets the start."""
        return min(self.ema, (1 + step) / (10 + step))


FINAL = Recipe(epochs=30)
"""What finalists are trained with unless a search is told otherwise."""
