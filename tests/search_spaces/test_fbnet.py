"""The FBNet space: its layers and texts, and its canonical form against real networks."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces.block import Network
from search_spaces.errors import InputError
from search_spaces.fbnet import CANDIDATES, OPTIONS, SKIP, FBNetSpace
from search_spaces.operators import MBConv
from search_spaces.space import sample

IMAGENET = FBNetSpace((3, 224, 224), 1000)
SMALL = FBNetSpace((1, 8, 8), 10)
SMALL_TEXT = ",".join(["k3_e1"] * 8)


def test_macro_architecture() -> None:
    rows = IMAGENET.positions()
    assert len(rows) == 25 and [len(row) for row in rows[1:-2]] == [9] * 22
    shapes = [row[0].in_shape for row in rows]
    channels = [16] + [16] + [24] * 4 + [32] * 4 + [64] * 4 + [112] * 4 + [184] * 4 + [352, 1984]
    sides = [112] + [112] + [56] * 4 + [28] * 4 + [14] * 8 + [7] * 4 + [7, 7]
    assert shapes == [(3, 224, 224), *[(c, s, s) for c, s in zip(channels, sides, strict=True)]]
    assert rows[-1][0].in_shape == (1984, 7, 7) and rows[-1][0].out_shape == (1000, 1, 1)


def test_candidates_are_those_of_the_name() -> None:
    for option, (kernel, expansion, groups) in CANDIDATES.items():
        for row in IMAGENET.positions()[1:-2]:
            block = row[OPTIONS.index(option)]
            assert isinstance(block, MBConv)
            assert (block.kernel, block.expansion, block.groups) == (kernel, expansion, groups)
            assert option == f"k{kernel}_e{expansion}" + ("_g2" if groups == 2 else "")


def moved(options: list[str], run: slice) -> list[list[str]]:
    """Return ``options`` with the skips of ``run`` at every other place among its other layers."""
    inside = options[run]
    others = [option for option in inside if option != SKIP]
    variants = []
    for places in itertools.combinations(range(len(inside)), len(others)):
        filled = [SKIP] * len(inside)
        for place, option in zip(places, others, strict=True):
            filled[place] = option
        variants.append([*options[: run.start], *filled, *options[run.stop :]])
    return variants


def test_moving_identities_changes_neither_the_architecture_nor_the_network() -> None:
    space = FBNetSpace((3, 32, 32), 10, "imagenet")
    options = ["skip", "k3_e1", "k3_e1", "skip", "k5_e1", "k3_e1", "skip", "k5_e3", "skip"]
    options += ["k3_e1", "skip", "skip", "skip"] + ["k3_e1"] * 4 + ["k3_e1"] * 4 + ["skip"]
    architecture = space.parse(",".join(options))
    reference = space.build(architecture).eval()
    weights = [layer.state_dict() for layer in reference.get_submodule("layers").children()]
    weights = [state for state in weights if state]
    x = torch.randn(2, 3, 32, 32)
    rows = space.positions()
    variants = moved(options, slice(2, 5)) + moved(options, slice(6, 9))
    assert len(variants) == 6
    for variant in variants:
        assert space.parse(",".join(variant)) == architecture
        body = [row[OPTIONS.index(option)] for row, option in zip(rows[1:-2], variant, strict=True)]
        blocks = [rows[0][0], *body, rows[-2][0], rows[-1][0]]
        network = Network(block.build() for block in blocks).eval()
        states = iter(weights)
        for layer in network.layers:
            if layer.state_dict():
                layer.load_state_dict(next(states))
        with torch.no_grad():
            assert torch.equal(network(x), reference(x))


def test_skips_that_project_stay_where_they_are() -> None:
    first = IMAGENET.parse(",".join(["k3_e1", "skip", "k3_e1", "k5_e1", "k3_e3"] + ["k3_e1"] * 17))
    other = IMAGENET.parse(",".join(["k3_e1", "k3_e1", "skip", "k5_e1", "k3_e3"] + ["k3_e1"] * 17))
    assert first != other and first.decisions[1] == ("layer02", "skip")
    projecting = IMAGENET.blocks(first)[2]
    assert projecting.params > 0 and projecting.in_shape != projecting.out_shape


def test_as_written_keeps_the_order_of_what_is_left_out() -> None:
    text = "fbnet/imagenet:" + ",".join(["k3_e1", "k3_e1", SKIP, "k3_e3", SKIP, *["k3_e1"] * 17])
    assert IMAGENET.as_written(text).text == text
    assert IMAGENET.parse(text) != IMAGENET.as_written(text)
    assert IMAGENET.pruned(IMAGENET.as_written(text)) == IMAGENET.as_written(text)


def test_order_of_layers_that_are_not_left_out_matters() -> None:
    one, other = (
        ",".join(["k3_e1", "k3_e1", *pair] + ["k3_e1"] * 18) for pair in (("k3_e3", "k5_e1"), ("k5_e1", "k3_e3"))
    )
    assert IMAGENET.parse(one) != IMAGENET.parse(other)


def test_canonical_form_is_stable() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        architecture = sample(IMAGENET, rng)
        assert IMAGENET.parse(architecture.text) == architecture
        assert IMAGENET.parse(architecture.text.rpartition(":")[2]) == architecture


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fbnet/imagenet:" + SMALL_TEXT, "belongs to the space 'fbnet/imagenet', not to 'fbnet/small-8'"),
        ("nb201:" + SMALL_TEXT, "belongs to the space 'nb201'"),
        (SMALL_TEXT.replace("k3_e1", "k3_e2", 1), "unknown option 1, layer01: 'k3_e2'; did you mean 'k3_e"),
        (SMALL_TEXT + ",k3_e1", "has 9 options, 8 make a network"),
        (SMALL_TEXT[:-6], "ends early: layer08 is missing"),
        (SMALL_TEXT + ",", "has 9 options"),
        ("", "unknown architecture of fbnet/small-8: ''"),
        ("fbnet_z", "unknown architecture of fbnet/small-8: 'fbnet_z'"),
        ("k3_e1", "ends early: layer02 is missing"),
        ("fbnet/small-8:", "unknown architecture"),
    ],
)
def test_texts_that_are_no_architecture(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        SMALL.parse(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_named_of_another_head() -> None:
    with pytest.raises(InputError, match="fbnet_a"):
        IMAGENET.parse("fbnet_a")


@pytest.mark.parametrize(
    ("side", "macro"),
    [
        (8, "small-8"),
        (19, "small-8"),
        (20, "small-28"),
        (28, "small-28"),
        (39, "small-28"),
        (40, "small-64"),
        (64, "small-64"),
        (65, "imagenet"),
        (224, "imagenet"),
        (4096, "imagenet"),
    ],
)
def test_macro_for_the_image_size(side: int, macro: str) -> None:
    assert FBNetSpace.macro_for((3, side, side)) == macro
    assert FBNetSpace.macro_for((1, side, side + 100)) == FBNetSpace.macro_for((1, side + 100, side)) == macro
    assert FBNetSpace((3, side, side), 2).name == f"fbnet/{macro}"


@pytest.mark.parametrize("side", [1, 7, 4097])
def test_image_sizes_that_do_not_fit(side: int) -> None:
    with pytest.raises(InputError, match=f"images of {side} px .* 8 to 4096 px"):
        FBNetSpace((3, side, side), 2)


def test_unknown_macro_architecture() -> None:
    with pytest.raises(InputError, match="unknown fbnet macro-architecture 'small-9'; did you mean 'small-"):
        FBNetSpace((3, 9, 9), 2, "small-9")


@pytest.mark.parametrize(
    "macro", ["imagenet", "imagenet-1504", "imagenet-1504-expand", "small-64", "small-28", "small-8"]
)
def test_default_shape_suits_the_macro_architecture(macro: str) -> None:
    shape = FBNetSpace.default_shape(macro)
    assert shape[0] == 3
    assert FBNetSpace(shape, 10, macro).name == f"fbnet/{macro}"
    assert FBNetSpace.macro_for(shape) == macro.partition("-1504")[0]


@pytest.mark.parametrize(
    ("text", "macro"),
    [
        ("fbnet_a", "imagenet-1504"),
        ("fbnet_c", "imagenet"),
        ("fbnet_s8", "imagenet-1504-expand"),
        ("fbnet/small-8:" + SMALL_TEXT, "small-8"),
        (SMALL_TEXT, None),
        ("nb201:" + SMALL_TEXT, None),
        ("unheard of", None),
    ],
)
def test_home_of(text: str, macro: str | None) -> None:
    assert FBNetSpace.home_of(text) == macro


def test_network_of_skips_is_stem_projections_and_head() -> None:
    smallest = SMALL.parse(",".join(["skip"] * 8))
    network = SMALL.build(smallest)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    # Stem, the projections where the shape changes, head: everything else is left out.
    changes = sum(not row[-1].params == 0 for row in SMALL.positions()[1:-2])
    assert len(convolutions) == 2 + changes


def test_descriptors_by_hand() -> None:
    options = ["k3_e1", "k5_e6", "k3_e1_g2", "skip", "k3_e1", "k3_e1", "k3_e1", "k3_e1"]
    values = np.array(SMALL.descriptors(SMALL.parse(",".join(options)))).reshape(8, 4)
    assert values[0] == pytest.approx([3, 0, 1, 0])
    assert values[1] == pytest.approx([5, np.log(6), 1, 0])
    assert values[2] == pytest.approx([3, 0, 2, 0])
    assert values[3] == pytest.approx([0, 0, 0, 1])


def test_baseline_family_scales_kernel_expansion_and_depth() -> None:
    family = IMAGENET.baseline_family()
    assert len(family) == 20
    full = [a for a in family if SKIP not in a.text]
    assert [set(option for _, option in a.decisions) for a in full] == [
        {"k3_e1"},
        {"k3_e3"},
        {"k3_e6"},
        {"k5_e3"},
        {"k5_e6"},
    ]
    by_depth = [IMAGENET.macs(a) for a in family[::5]]
    assert by_depth == sorted(by_depth) and len(set(by_depth)) == 4
