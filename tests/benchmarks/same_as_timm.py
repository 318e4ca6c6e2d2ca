"""The published networks of the hybrid space beside those of PyTorch Image Models: the same weights, the same scores?

Needs timm 1.0.31, which the project does not depend on: pip install timm==1.0.31
Run: .venv/bin/python -P tests/benchmarks/same_as_timm.py
"""

import timm
import torch
from torch import Tensor, nn

from search_spaces.hybrid import HybridSpace
from search_spaces.lowformer import SlimmedAttention

NAMES = (
    "shvit_s1",
    "shvit_s2",
    "shvit_s3",
    "shvit_s4",
    "lowformer_b0",
    "lowformer_b1",
    "lowformer_b15",
    "lowformer_b3",
)


def randomise(network: nn.Module) -> None:
    """Give norms and biases values of their own, as after training: fresh ones hide mistakes."""
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.dim() == 1:
            value.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)


def thirds(weight: Tensor, heads: int) -> Tensor:
    """Return rows that are queries, keys and values of each head in turn as those of all heads."""
    return weight.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def copy(theirs: nn.Module, ours: nn.Module) -> None:
    """Hand on all weights: both list them in the order in which they are used."""
    heads = {f"{n}.qkv.weight": m.heads for n, m in ours.named_modules() if isinstance(m, SlimmedAttention)}
    pairs = zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True)
    for (name, own), other in pairs:
        own.copy_(thirds(other, heads[name]) if name in heads else other)


@torch.no_grad()
def main() -> None:
    """Print the largest difference of the scores, relative to the largest score."""
    torch.manual_seed(0)
    for name in NAMES:
        macro = HybridSpace.home_of(name)
        space = HybridSpace(HybridSpace.default_shape(macro), 1000, macro)
        ours, theirs = space.build(space.parse(name)).eval(), timm.create_model(name).eval()
        randomise(theirs)
        copy(theirs, ours)
        image = torch.randn(1, *space.input_shape)
        expected = theirs(image)
        print(f"{name}: {float((ours(image) - expected).abs().max() / expected.abs().max()):.1e}")


if __name__ == "__main__":
    main()
