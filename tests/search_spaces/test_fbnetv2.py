"""The FBNetV2 space against the authors' published figures, and its canonical form against the networks themselves.

Figures: facebookresearch/mobile-vision, FBNetV2 model information (counted as those of FBNet; the inputs of all global
poolings, squeeze-excite's too).
"""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from latency.emit import disagreement, to_onnx
from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.errors import InputError
from search_spaces.fbnetv2 import CONV1, SKIP, FBNetV2Space
from search_spaces.operators import ConvNormReLU, Identity
from search_spaces.space import SearchSpace
from search_spaces.squeeze_operators import PooledHead, Resize, SqueezeMBConv

SMALL = FBNetV2Space((1, 28, 28), 10)
F1 = FBNetV2Space((3, 128, 128), 1000, "f1")
F4 = FBNetV2Space((3, 224, 224), 1000, "f4")
FIGURES = {
    "fbnetv2_f1": (128, 56_410_560, 5_999_408),
    "fbnetv2_f2": (160, 85_441_392, 5_999_408),
    "fbnetv2_f3": (192, 121_824_000, 6_899_504),
    "fbnetv2_f4": (224, 238_351_984, 6_994_824),
    "fbnetv2_l1": (224, 326_023_008, 8_496_520),
    "fbnetv2_l2": (256, 423_912_768, 8_496_520),
}
SMALL_TEXT = "28x28,k3,k3,e2,c16,k3,e2,c16,k3,e3,c32,k3,e3,c32,k3,e3,c32,k3,e3,c64,k3,e3,c64,k3,e3,c64"


def home(name: str) -> FBNetV2Space:
    macro = FBNetV2Space.home_of(name)
    return FBNetV2Space(FBNetV2Space.default_shape(macro), 1000, macro)


@pytest.mark.parametrize("name", FIGURES)
def test_published_figures(name: str) -> None:
    space = home(name)
    architecture = space.parse(name)
    found = (space.input_shape[1], space.macs(architecture), space.params(architecture))
    assert found == FIGURES[name]


def test_every_named_network_has_figures() -> None:
    spaces = [FBNetV2Space(FBNetV2Space.default_shape(macro), 1000, macro) for macro in FBNetV2Space.macros()]
    assert {name for space in spaces for name in space.named()} == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_published_networks_run_as_onnx(name: str) -> None:
    space = home(name)
    network = space.build(space.parse(name))
    model = to_onnx(network, space.input_shape)
    onnx.checker.check_model(model, full_check=True)
    assert disagreement(model, network, space.input_shape) < 1e-4


def test_macro_architecture_of_f4() -> None:
    rows = F4.positions()
    assert len(rows) == 23
    sides = [{block.in_shape[1] for block in row} for row in rows]
    assert sides == [{s} for s in [224, 224, 112, 112, 56, 56, 56, 28, 28, 28, 28, *[14] * 7, 7, 7, 7, 7, 7]]
    assert {block.out_shape[0] for block in rows[-3]} == {112, 144, 184, 224}


def test_blocks_of_f4_by_hand() -> None:
    """The third of the layers with squeeze-excite: 32 channels at 28 px, 4.5379 * 32 rounds to 144."""
    block = F4.blocks(F4.parse("fbnetv2_f4"))[8]
    assert isinstance(block, SqueezeMBConv)
    assert (block.in_shape, block.mid_channels, block.squeezed_channels) == ((32, 28, 28), 144, 40)
    assert (block.kernel, block.squeeze, block.hswish) == (5, True, False)
    assert block.params == 32 * 144 + 25 * 144 + 144 * 32 + 2 * 144 * 40
    assert block.macs == 28 * 28 * (32 * 144 + 25 * 144 + 144 * 32 + 144) + 2 * 144 * 40


def test_small_blocks_can_be_measured_one_by_one() -> None:
    assert 100 < len(SMALL.distinct_blocks()) < 800


def test_what_a_layer_asks() -> None:
    asked = [name for name, _ in F1.parse("fbnetv2_f1").decisions]
    # One expansion alone in the first layer; a projection has no expansion.
    assert asked[:5] == ["layer01", "layer01_channels", "layer02", "layer02_expansion", "layer02_channels"]
    assert asked[-2:] == ["layer15", "layer15_channels"]
    skipped = SMALL.parse("20x20,skip,k5sh,e6,c24,skip,skip,skip,skip,k3,e3,c64,skip,skip")
    assert [option for name, option in skipped.decisions if name.startswith("layer04")] == [SKIP]
    assert SMALL.searchable == max(len(a.decisions) for a in SMALL.baseline_family())


def runs(space: SearchSpace, architecture: Architecture) -> tuple[Block, ...]:
    """Return the blocks that compute something: equal networks run equal blocks."""
    return tuple(block for block in space.blocks(architecture) if not isinstance(block, Identity))


def drawn_as_written(space: FBNetV2Space, rng: np.random.Generator) -> str:
    """Draw decisions, of few kinds that many networks come up again, as a text that is not yet canonical."""
    taken: list[str] = []

    def choose(name: str, options: Sequence[str]) -> str:
        few = [o for o in options if o in (SKIP, CONV1, "k3")] or options[:1]
        taken.append(SKIP if SKIP in few and rng.random() < 0.7 else few[int(rng.integers(len(few)))])
        return taken[-1]

    space.decide(choose)
    return ",".join(taken)


@pytest.mark.parametrize("space", [SMALL, F1], ids=lambda space: space.name)
def test_equal_networks_are_equal_architectures(space: FBNetV2Space) -> None:
    rng = np.random.default_rng(0)
    by_network: dict[tuple[Block, ...], set[Architecture]] = {}
    texts = {drawn_as_written(space, rng) for _ in range(4000)}
    for text in texts:
        architecture, written = space.parse(text), space.as_written(text)
        assert runs(space, architecture) == runs(space, written)
        assert space.parse(architecture.text) == architecture
        by_network.setdefault(runs(space, written), set()).add(architecture)
    assert len(by_network) < 0.9 * len(texts)
    assert all(len(architectures) == 1 for architectures in by_network.values())


def test_skips_come_after_what_may_stand_before_them() -> None:
    found = SMALL.parse("28x28,k3,k3,e2,c16,skip,skip,skip,k5,e3,c32,k3,e3,c64,skip,k3,e3,c64")
    assert found == SMALL.parse("28x28,k3,k3,e2,c16,skip,k5,e3,c32,skip,skip,k3,e3,c64,k3,e3,c64,skip")
    assert found.text.endswith("skip,k5,e3,c32,skip,skip,k3,e3,c64,k3,e3,c64,skip")


def test_expansions_that_round_to_the_same_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"channels": [8, 16], "expansions": [2, 2.1, 3], "layers": 2, "stride": 1}
    macro = {"stem": [8, 2], "operators": ["k3", "skip"], "head": [2, 16], "stages": [options]}
    monkeypatch.setattr(FBNetV2Space, "_macro", classmethod(lambda cls, name: macro))
    space = FBNetV2Space((1, 8, 8), 2, "made-up")
    # 2.1 times 8 channels are 16.8, rounded to 16; 2.1 times 16 are 33.6, rounded to 32.
    one, other = (space.parse(f"k3,{e},c8,k3,{e},c16") for e in ("e2", "e2.1"))
    assert one == other and space.parse("k3,e3,c8,k3,e2,c16") != one
    assert space.parse("skip,k3,e2.1,c8") == space.parse("k3,e2,c8,skip")


def test_resolution() -> None:
    small, full = (SMALL.parse(SMALL_TEXT.replace("28x28", r)) for r in ("20x20", "28x28"))
    first, same = SMALL.blocks(small)[0], SMALL.blocks(full)[0]
    assert isinstance(first, Resize) and first.out_shape == (1, 20, 20)
    assert isinstance(same, Identity) and first.macs == first.params == 0
    assert SMALL.macs(small) < SMALL.macs(full) and SMALL.params(small) == SMALL.params(full)
    wide = FBNetV2Space((3, 21, 34), 10)
    assert {block.out_shape for block in wide.positions()[0]} == {(3, 15, 24), (3, 21, 34)}


def test_projection_and_head() -> None:
    *_, projection, expand, head = F1.blocks(F1.parse("fbnetv2_f1"))
    assert projection == ConvNormReLU((144, 4, 4), 224, 1, 1)
    assert expand.out_shape == (1344, 4, 4)
    assert head == PooledHead((1344, 4, 4), 1600, 1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fbnetv2_f1", "'fbnetv2_f1' belongs to the space 'fbnetv2/f1', not to 'fbnetv2/small-28'"),
        ("fbnetv2_f9", "unknown architecture of fbnetv2/small-28: 'fbnetv2_f9'; did you mean 'fbnetv2_f4'"),
        (SMALL_TEXT.replace("28x28", "24x24"), "unknown option 1, resolution: '24x24'"),
        (SMALL_TEXT.replace("e2,c16", "e3,c16", 1), "unknown option 4, layer02_expansion: 'e3'"),
        (SMALL_TEXT.replace("k3,e2,c16", "skip", 1), "unknown option 3, layer02: 'skip'"),
        (SMALL_TEXT + ",skip", "has 27 options, 26 make a network"),
    ],
)
def test_texts_that_are_no_architecture(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        SMALL.parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(("side", "macro"), [(20, "small-28"), (64, "small-28"), (65, "f4"), (224, "f4")])
def test_macro_for_the_image_size(side: int, macro: str) -> None:
    assert FBNetV2Space((3, side, side), 2).name == f"fbnetv2/{macro}"


@pytest.mark.parametrize("side", [19, 4097])
def test_image_sizes_that_do_not_fit(side: int) -> None:
    with pytest.raises(InputError, match=f"images of {side} px do not fit the fbnetv2 space: it takes 20 to 4096 px"):
        FBNetV2Space((3, side, side), 2)


def test_homes() -> None:
    assert [FBNetV2Space.home_of(name) for name in FIGURES] == ["f1", "f2", "f3", "f4", "l1", "l2"]
    assert FBNetV2Space.home_of(f"fbnetv2/small-28:{SMALL_TEXT}") == "small-28"
    assert FBNetV2Space.home_of("fbnet_a") is None
    assert FBNetV2Space.default_shape() == (3, 224, 224)


def test_descriptors_by_hand() -> None:
    text = SMALL_TEXT.replace("28x28,k3,k3,e2,c16,k3,e2,c16", "20x20,k5sh,k5,e4,c24,skip")
    values = SMALL.descriptors(SMALL.parse(text))
    assert values[0] == pytest.approx(20 / 28)
    rows = np.array(values[1:]).reshape(9, 5)
    assert rows[0] == pytest.approx([5, 0, np.log(16), 1, 1])
    assert rows[1] == pytest.approx([5, np.log(4), np.log(24), 0, 0])
    assert rows[2] == pytest.approx([0, 0, np.log(24), 0, 0])
    projecting = np.array(F1.descriptors(F1.parse("fbnetv2_f1"))[1:]).reshape(15, 5)[-1]
    assert projecting == pytest.approx([1, 0, np.log(224), 0, 0])


def test_baseline_family_scales_what_is_scaled_by_hand() -> None:
    family = SMALL.baseline_family()
    assert len(family) == 16 and not any(SKIP in a.text for a in family)
    taken = {name: {dict(a.decisions)[name] for a in family} for name, _ in family[0].decisions}
    assert taken["resolution"] == {"20x20", "28x28"} and taken["layer02"] == {"k3", "k5sh"}
    assert taken["layer02_expansion"] == {"e2", "e6"} and taken["layer02_channels"] == {"c16", "c24"}
