"""Multiply-accumulates and parameters of a module, counted while it runs: a second opinion on a block's own figures."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from search_spaces.block import Shape


class _Counter(TorchFunctionMode):
    """Adds up what each call multiplies, and apart from that what it pools globally."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.pooled = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.conv2d:
            self.macs += args[1].numel() * found.shape[2] * found.shape[3]
        elif func is F.conv_transpose2d:
            self.macs += args[1].numel() * args[0].shape[2] * args[0].shape[3]
        elif func is F.linear:
            self.macs += args[1].numel() * len(args[0])
        elif func in (Tensor.matmul, Tensor.__matmul__):
            self.macs += found.numel() * args[0].shape[-1]
        elif func is F.avg_pool2d and args[1] == args[0].shape[2:]:
            self.pooled += args[0].numel()
        return found


def counted(module: nn.Module, shape: Shape) -> tuple[int, int]:
    """Return the multiply-accumulates of one inference, and the elements that it pools globally.

    Modules on the device "meta" are counted without computing anything.
    """
    counter = _Counter()
    device = next((parameter.device for parameter in module.parameters()), None)
    with torch.no_grad(), counter:
        module.eval()(torch.empty(1, *shape, device=device))
    return counter.macs, counter.pooled


def weights(module: nn.Module) -> int:
    """Return the number of weights of convolutions and linear layers."""
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, kinds))


def trainable(module: nn.Module) -> int:
    """Return the number of all trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
