"""The grammar of einspace: its modules, its terminal functions and the probabilities of its rules.

Source: [Ericsson2024], section 3 and appendix, and the authors' code. A module M is a sequence of two modules, a
branching B M A (of two branches, M M), a routing P M R or a computation C; the start symbol is no computation::

    S -> M M | B M A | P M R
    M -> M M | B M A | P M R | C
"""

from collections.abc import Sequence
from fractions import Fraction

OP, SEQ, BRANCH, ROUTE = KINDS = ("op", "seq", "branch", "route")
"""The rules of a module: computation, sequence, branching, routing."""

P_COMPUTATION = Fraction(32, 100)
"""The probability of M -> C; the other rules of M share the rest equally. Above 4/13 derivations end."""

IDENTITY = "identity"
NORM, RELU, SOFTMAX, POSITIONS = "norm", "relu", "softmax", "positions"
LINEAR = {f"linear{width}": width for width in (16, 32, 64, 128, 256, 512, 1024, 2048)}
"""Linear layers on the last dimension, by width."""
COMPUTATIONS = (IDENTITY, *LINEAR, NORM, RELU, SOFTMAX, POSITIONS)

MAP_PERMUTES = {
    "permute132": (0, 2, 1), "permute213": (1, 0, 2), "permute231": (1, 2, 0),
    "permute312": (2, 0, 1), "permute321": (2, 1, 0),
}  # fmt: skip
"""Orders of the dimensions (C, H, W) of a feature map."""
SWAP = "permute21"
"""The other order of the dimensions (S, D) of columns."""
WINDOWS = {
    f"im2col_k{kernel}s{stride}": (kernel, stride, padding)
    for kernel, stride, padding in (
        (1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (4, 4, 0), (8, 8, 0), (16, 16, 0),
    )
}  # fmt: skip
"""Kernel, stride and padding of the windows whose pixels become columns."""
PIXELS = "im2col_k1s1"
COL2IM = "col2im"
PRE_ROUTINGS = (IDENTITY, SWAP, *MAP_PERMUTES, *WINDOWS)
POST_ROUTINGS = (IDENTITY, SWAP, *MAP_PERMUTES, COL2IM)

FACTORS = (2, 4, 8)
CLONES = {f"clone{factor}": factor for factor in FACTORS}
GROUPS = {f"group{factor}_d{dim}": (factor, dim) for dim in (1, 2, 3) for factor in FACTORS}
"""Splits into equal parts: their number, and the dimension, counted from 1 (the batch is 0)."""
BRANCHINGS = (*CLONES, *GROUPS)

ADD, DOT, SCALED_DOT = "add", "dot", "scaled_dot"
CONCATS = {f"concat{factor}_d{dim}": (factor, dim) for dim in (1, 2, 3) for factor in FACTORS}
"""How many tensors are joined, and along which dimension."""
AGGREGATIONS = (ADD, DOT, SCALED_DOT, *CONCATS)


def factor(branching: str) -> int:
    """Return the number of branches of a branching function."""
    return CLONES[branching] if branching in CLONES else GROUPS[branching][0]


def takes(aggregation: str, tensors: int) -> bool:
    """Tell whether an aggregation function joins so many tensors."""
    if aggregation in CONCATS:
        return CONCATS[aggregation][0] == tensors
    return aggregation == ADD or tensors == 2


def rule_chances(kinds: Sequence[str]) -> list[float]:
    """Return the probability of each of the valid rules of a module.

    The share of a rule that limits leave out goes to the computation, so that derivations end with limits too.
    """
    if OP not in kinds:
        return [1 / len(kinds)] * len(kinds)
    other = float((1 - P_COMPUTATION) / (len(KINDS) - 1))
    return [1 - other * (len(kinds) - 1) if kind == OP else other for kind in kinds]


def branching_rate(p_computation: Fraction) -> Fraction:
    """Return how many modules a module is replaced by on average.

    It is the spectral radius of the grammar's expectation matrix: the derivations of a grammar end with probability 1
    where it is below 1 ([Ericsson2024], section 3.3). Two branches are derived apart, four or eight are copies of one.
    """
    branches = Fraction(sum(2 if factor(function) == 2 else 1 for function in BRANCHINGS), len(BRANCHINGS))
    return (1 - p_computation) / 3 * (2 + 1 + branches)
