"""Views are of the same images, each another one, and the same for the same seed."""

import numpy as np
import torch
from torch import Tensor

from nas.training.views import view


def seen(images: Tensor, seed: int = 0) -> Tensor:
    return view(images, np.random.default_rng(seed))


def ramp(channels: int, count: int = 64) -> Tensor:
    """Return images that get brighter from left to right, each channel by another amount."""
    across = torch.linspace(-1, 1, 16).repeat(16, 1)
    return torch.stack([(1 + channel) * across for channel in range(channels)]).repeat(count, 1, 1, 1)


def test_views_are_made_anew_and_fixed_by_the_seed() -> None:
    images = torch.randn(8, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    assert torch.equal(seen(images), seen(images)) and torch.equal(images, before)
    assert seen(images).shape == images.shape and seen(images).is_contiguous(memory_format=torch.channels_last)
    same = seen(images[:1].repeat(8, 1, 1, 1))
    assert all(not torch.allclose(same[0], other) for other in same[1:])
    assert not torch.allclose(seen(images, 1), seen(images))


def test_a_part_is_seen_in_another_light() -> None:
    found = seen(ramp(1))
    across = found.diff(dim=3)
    contrasts = across.mean((1, 2, 3)) / ramp(1, 1).diff(dim=3).mean()
    # A crop sees less of the range of brightness, contrast changes it by a factor of up to 1.4.
    assert 0.2 < contrasts.min() < 0.6 and 0.8 < contrasts.max() < 1.4
    assert found.mean((1, 2, 3)).abs().max() < 1.5 and found.mean((1, 2, 3)).std() > 0.1


def test_gray_images_are_not_mirrored_and_colour_loses_colour_at_times() -> None:
    assert (seen(ramp(1))[..., -1] > seen(ramp(1))[..., 0]).all()
    found = seen(ramp(3))
    mirrored = (found[:, 0, 8, 0] > found[:, 0, 8, -1]).float().mean()
    gray = (found[:, 0] - found[:, 2]).abs().amax((1, 2)) < 1e-5
    assert 0.25 < mirrored < 0.75 and 0.05 < gray.float().mean() < 0.4
