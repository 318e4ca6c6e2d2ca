"""The grammar: its functions, its probabilities, and that derivations end."""

from fractions import Fraction

import numpy as np
import pytest

from search_spaces.einspace.grammar import (
    AGGREGATIONS,
    BRANCHINGS,
    COMPUTATIONS,
    KINDS,
    OP,
    P_COMPUTATION,
    POST_ROUTINGS,
    PRE_ROUTINGS,
    branching_rate,
    factor,
    rule_chances,
    takes,
)


def test_functions_are_those_of_the_paper() -> None:
    sets = (BRANCHINGS, AGGREGATIONS, PRE_ROUTINGS, POST_ROUTINGS, COMPUTATIONS)
    assert [len(functions) for functions in sets] == [12, 12, 14, 8, 13]
    assert all(len(set(functions)) == len(functions) for functions in sets)


def test_branching_rate_is_exact() -> None:
    assert branching_rate(Fraction(4, 13)) == 1
    assert branching_rate(P_COMPUTATION) == Fraction(68, 100) * Fraction(13, 9) < 1
    assert branching_rate(Fraction(30, 100)) > 1


def test_branching_rate_is_the_spectral_radius_of_the_expectations() -> None:
    """Written down once more, non-terminal by non-terminal: M, B, A, P, R, C in that order."""
    p = float(P_COMPUTATION)
    rule = (1 - p) / 3
    modules = 2 * rule + rule * np.mean([2 if factor(function) == 2 else 1 for function in BRANCHINGS]) + rule
    expectations = np.zeros((6, 6))
    expectations[0] = [modules, rule, rule, rule, rule, p]
    assert max(abs(np.linalg.eigvals(expectations))) == pytest.approx(float(branching_rate(P_COMPUTATION)))


def test_rules_share_what_the_computation_leaves_and_it_what_limits_leave() -> None:
    assert rule_chances(KINDS) == pytest.approx([0.32, 0.68 / 3, 0.68 / 3, 0.68 / 3])
    assert rule_chances((OP, "seq", "route")) == pytest.approx([1 - 2 * 0.68 / 3, 0.68 / 3, 0.68 / 3])
    assert rule_chances((OP,)) == [1]
    assert rule_chances(KINDS[1:]) == pytest.approx([1 / 3] * 3)


def test_aggregations_take_as_many_as_branchings_make() -> None:
    taken = {number: {name for name in AGGREGATIONS if takes(name, number)} for number in (2, 4, 8)}
    assert taken[2] == {"add", "dot", "scaled_dot", "concat2_d1", "concat2_d2", "concat2_d3"}
    assert taken[4] == {"add", "concat4_d1", "concat4_d2", "concat4_d3"}
    assert taken[8] == {"add", "concat8_d1", "concat8_d2", "concat8_d3"}
