"""Two looks at the same image, which self-supervised training takes for the same thing."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# Share of the area that is seen, more than the 8 % of ImageNet's objects, which fill a part only; sides to each other.
_AREA, _ASPECT = (0.3, 1.0), 4 / 3
# How far contrast is changed, as a factor, and brightness, in standard deviations of the pixels.
_CONTRAST, _BRIGHTNESS = 0.4, 0.4
_GRAY = 0.2


def view(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return normalised images (N, C, H, W) seen anew: a part of each, resized, of other contrast and brightness.

    Colour images are also mirrored (one in two) and made gray (one in five); gray ones are mostly symbols, whose
    meaning mirroring changes. After SimCLR and BYOL (arXiv 2002.05709, 2006.07733, appendix B) without blur and
    solarisation, which leave nothing of images of few pixels.
    """
    count, colour = len(images), images.shape[1] == 3
    area, aspect = rng.uniform(*_AREA, count), np.exp(rng.uniform(-1, 1, count) * math.log(_ASPECT))
    width, height = (np.minimum(1, np.sqrt(area * ratio)) for ratio in (aspect, 1 / aspect))
    left, top = (rng.uniform(-1, 1, count) * (1 - side) for side in (width, height))
    mirrored = np.where(colour & (rng.random(count) < 0.5), -1, 1)
    nothing = np.zeros(count)
    rows = [[mirrored * width, nothing, left], [nothing, height, top]]
    grid = F.affine_grid(_tensor(np.array(rows).transpose(2, 0, 1), images), list(images.shape), align_corners=False)
    seen = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast = np.exp(rng.uniform(-1, 1, count) * math.log1p(_CONTRAST))
    brightness = rng.uniform(-_BRIGHTNESS, _BRIGHTNESS, count)
    gray = colour * (rng.random(count) < _GRAY)
    factor, added, faded = (_tensor(each, images).view(-1, 1, 1, 1) for each in (contrast, brightness, gray))
    seen = torch.lerp(seen, seen.mean(1, keepdim=True).expand_as(seen), faded)
    return (seen * factor + added).contiguous(memory_format=torch.channels_last)


def _tensor(values: NDArray, like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like.device)
