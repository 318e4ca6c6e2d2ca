"""Slices of shared weights compute what masks over one network of all channels do (FBNetV2, section 3.1)."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.training.supernet import Supernet
from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.operators import ConvNormReLU
from search_spaces.space import sample
from search_spaces.squeeze_operators import PooledHead, Resize, SqueezeMBConv

SPACE = FBNetV2Space((1, 28, 28), 10)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    found = Supernet(SPACE, 0)
    with torch.no_grad():
        for name, parameter in found.parameters.items():
            if ".norm." in name:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
    return found


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, *SPACE.input_shape, generator=torch.Generator().manual_seed(0))


def first(x: Tensor, count: int) -> Tensor:
    """Set all channels (N, C, ...) but the first ``count`` to zero."""
    return x * (torch.arange(x.shape[1]) < count).view(1, -1, *[1] * (x.dim() - 2))


def padded(x: Tensor, channels: int) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


class Masked:
    """One position's maximal parameters, of which a mask leaves what ``block`` has."""

    def __init__(self, supernet: Supernet, position: int, block: Block) -> None:
        self._whole = {
            name.removeprefix(f"layers.{position}."): parameter.detach()
            for name, parameter in supernet.parameters.items()
            if name.startswith(f"layers.{position}.")
        }
        self._block = block

    def conv_norm(self, name: str, x: Tensor, count: int, kernel: int = 1, stride: int = 1, depthwise: bool = False):
        weight = self._whole[f"{name}conv.weight"]
        side = weight.shape[-1]
        window = (torch.arange(side) - side // 2).abs() <= kernel // 2
        weight = weight * window[:, None] * window[None, :]
        x = x if depthwise else padded(x, weight.shape[1])
        y = F.conv2d(x, weight, None, stride, side // 2, groups=len(weight) if depthwise else 1)
        scale, shift = (self._whole[f"{name}norm.{part}"] for part in ("weight", "bias"))
        return first(F.batch_norm(y, torch.zeros(len(scale)), torch.ones(len(scale)), scale, shift), count)

    def squeeze_excite(self, y: Tensor, count: int, act: Callable[[Tensor], Tensor]) -> Tensor:
        one, other = ("depthwise.squeeze.reduce", "depthwise.squeeze.excite")
        means = y.mean((2, 3), keepdim=True)
        squeezed = act(F.conv2d(means, self._whole[f"{one}.weight"], self._whole[f"{one}.bias"]))
        return y * F.hardsigmoid(
            F.conv2d(first(squeezed, count), self._whole[f"{other}.weight"], self._whole[f"{other}.bias"])
        )

    def __call__(self, x: Tensor) -> Tensor:
        block = self._block
        if isinstance(block, Resize):
            return F.interpolate(x, block.out_shape[1:], mode="bilinear")
        if isinstance(block, ConvNormReLU):
            return F.hardswish(self.conv_norm("", x, block.out_channels, block.kernel, block.stride))
        if isinstance(block, PooledHead):
            hidden = F.linear(x.mean((2, 3)), self._whole["hidden.weight"], self._whole["hidden.bias"])
            return F.linear(F.hardswish(hidden), self._whole["linear.weight"], self._whole["linear.bias"])
        if not isinstance(block, SqueezeMBConv):
            return x
        act = F.hardswish if block.hswish else F.relu
        y = act(self.conv_norm("expand.", x, block.mid_channels))
        y = act(self.conv_norm("depthwise.", y, block.mid_channels, block.kernel, block.stride, depthwise=True))
        if block.squeeze:
            y = self.squeeze_excite(y, block.squeezed_channels, act)
        y = self.conv_norm("project.", y, block.out_channels)
        return y + padded(first(x, block.in_shape[0]), y.shape[1]) if block.in_shape == block.out_shape else y


def paths(count: int) -> list[Architecture]:
    rng = np.random.default_rng(0)
    return [*SPACE.baseline_family(), *(sample(SPACE, rng) for _ in range(count))]


def test_heirs_compute_what_masks_do(supernet: Supernet, images: Tensor) -> None:
    for path in paths(20):
        x = images
        for position, block in enumerate(SPACE.blocks(path)):
            x = Masked(supernet, position, block)(x)
        with torch.no_grad():
            heir = supernet.inherit(path).eval()(images)
        torch.testing.assert_close(heir, x, rtol=1e-4, atol=1e-4)


def test_a_step_reaches_what_a_path_uses_alone(supernet: Supernet, images: Tensor) -> None:
    for path in paths(5):
        for parameter in supernet.parameters.values():
            parameter.grad = None
        F.cross_entropy(supernet.forward(path, images), torch.tensor([1, 2])).backward()
        shapes = {name: parameter.shape for name, parameter in SPACE.build(path).named_parameters()}
        for name, whole in supernet.parameters.items():
            if name not in shapes:
                assert whole.grad is None or not whole.grad.any()
            else:
                assert whole.grad is not None and torch.isfinite(whole.grad).all()
                assert whole.grad.count_nonzero() <= shapes[name].numel()
