"""Accuracy estimates of untrained networks."""

import numpy as np
import torch
from torch import Tensor, nn


@torch.no_grad()
def naswot(network: nn.Module, images: Tensor) -> float:
    """Return the log-determinant of the Hamming kernel of ReLU and h-swish patterns on ``images`` (N, C, H, W).

    The network is put into training mode, and its batch norm sees the images: give one that is not used further.
    Higher means that the untrained network tells the images apart better (Mellor et al., Neural Architecture
    Search without Training, ICML 2021, equation 2).
    """
    count = len(images)
    kernel = torch.zeros(count, count)

    def add(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        active = (output > 0).flatten(1).float()
        kernel.add_(active @ active.T + (1 - active) @ (1 - active).T)

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, nn.ReLU | nn.Hardswish)]
    try:
        network.train()(images)
        return float(np.linalg.slogdet(kernel.double().numpy())[1])
    finally:
        for hook in hooks:
            hook.remove()
