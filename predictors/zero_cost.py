"""Accuracy estimates of untrained networks.

On the cells of NAS-Bench-201 they rank well by themselves and help a predictor that sees the decisions alone a lot, but
add about 0.01 of Kendall's tau to one that knows MACs, parameters and the structure of an architecture
(tests/benchmarks/predictors.py). They cost a forward pass per candidate, and a proposal considers thousands: the search
reports them and proposes without them.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.block import Shape

_RECTIFIERS = (nn.ReLU, nn.LeakyReLU, nn.Hardswish)


@torch.no_grad()
def naswot(network: nn.Module, images: Tensor) -> float:
    """Return the log-determinant of the Hamming kernel of which ReLUs, leaky ReLUs and h-swishes are active.

    Of ``images`` (N, C, H, W). Without any of these, or where two images have the same pattern, it is minus infinity.
    The network is put into training mode, and its batch norm sees the images: give one that is not used further.
    Higher means that the untrained network tells the images apart better (Mellor et al., Neural Architecture
    Search without Training, ICML 2021, equation 2).
    """
    count = len(images)
    kernel = torch.zeros(count, count)

    def add(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        active = (output > 0).flatten(1).float()
        kernel.add_(active @ active.T + (1 - active) @ (1 - active).T)

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, _RECTIFIERS)]
    try:
        network.train()(images)
        return float(np.linalg.slogdet(kernel.double().numpy())[1])
    finally:
        for hook in hooks:
            hook.remove()


def synflow(network: nn.Module, input_shape: Shape) -> float:
    """Return the logarithm of the synaptic flow: what all weights, as positive numbers, carry of an image of ones.

    The network's weights become positive doubles and its batch norm is passed by: give one that is not used further.
    No data is needed (Tanaka et al., Pruning neural networks without any data, NeurIPS 2020, equation 1; as a score of
    architectures Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021).
    """
    network.double().eval()
    weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    network.zero_grad()
    network(torch.ones(1, *input_shape, dtype=torch.float64)).sum().backward()
    flow = sum(float((weight * weight.grad).sum().detach()) for weight in weights if weight.grad is not None)
    return math.log(flow) if flow > 0 else -math.inf
