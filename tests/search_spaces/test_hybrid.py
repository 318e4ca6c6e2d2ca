"""The hybrid space against the published figures of its named networks, and its canonical form against the networks.

Parameters: all trainable ones, as SHViT and LowFormer were published and PyTorch Image Models 1.0.31 implements them.
Multiply-accumulates: convolutions, linear layers and the products of attention, without global poolings.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from counting import counted, trainable
from torch import nn

from latency.emit import disagreement, to_onnx
from nas.delivery.export import export
from nas.search.distribution import decisions_of
from search_spaces.architecture import Architecture
from search_spaces.attention import Attends
from search_spaces.block import Block
from search_spaces.bottleneck import ResAtt
from search_spaces.errors import InputError
from search_spaces.hybrid import HybridSpace
from search_spaces.hybrid_options import SKIP, block_of, operator_of
from search_spaces.operators import Identity
from search_spaces.space import SearchSpace, sample

SMALL = HybridSpace((1, 28, 28), 10)
FABRIC = HybridSpace((3, 28, 28), 10, "fabric-28")
LARGE = HybridSpace((3, 96, 96), 10)
HYTRA = HybridSpace((3, 224, 224), 1000, "hytra")
FIGURES = {
    "shvit_s1": (224, 241.3, 6_330_808),
    "shvit_s2": (224, 365.4, 11_483_072),
    "shvit_s3": (224, 600.6, 14_245_273),
    "shvit_s4": (256, 986.2, 16_588_484),
    "lowformer_b0": (224, 944.0, 14_100_472),
    "lowformer_b1": (224, 1411.0, 17_936_312),
    "lowformer_b15": (224, 2573.7, 33_982_028),
    "lowformer_b3": (224, 6098.7, 57_086_920),
}
# What the authors print: millions of multiply-accumulates and of parameters, in SHViT those without batch norm.
PRINTED = {
    "shvit_s1": (241, 6.3),
    "shvit_s2": (366, 11.4),
    "shvit_s3": (601, 14.2),
    "shvit_s4": (986, 16.5),
    "lowformer_b0": (944, 14.1),
    "lowformer_b1": (1410, 17.9),
    "lowformer_b15": (2573, 33.9),
    "lowformer_b3": (6098, 57.1),
}


def home(name: str) -> HybridSpace:
    macro = HybridSpace.home_of(name)
    return HybridSpace(HybridSpace.default_shape(macro), 1000, macro)


def shapes_alone(space: HybridSpace, name: str) -> nn.Module:
    """Return a named network whose weights have shapes and no values."""
    with torch.device("meta"):
        return space.build(space.parse(name))


@pytest.mark.parametrize("name", FIGURES)
def test_published_figures(name: str) -> None:
    space = home(name)
    network, architecture = shapes_alone(space, name), space.parse(name)
    macs, pooled = counted(network, space.input_shape)
    assert (space.input_shape[1], round(macs / 1e6, 1), trainable(network)) == FIGURES[name]
    assert (macs / 1e6, trainable(network) / 1e6) == pytest.approx(PRINTED[name], rel=0.01)
    assert space.macs(architecture) == macs + pooled
    assert 0.99 * trainable(network) < space.params(architecture) < trainable(network)


def test_bossnet_t0_has_its_published_cost() -> None:
    """3.4 billion without squeeze-excite (BossNAS)."""
    space = home("bossnet_t0")
    assert round(space.macs(space.parse("bossnet_t0")) / 1e9, 1) == 3.4
    sides = [block.out_shape[1] for block in space.blocks(space.parse("bossnet_t0"))[2:-1]]
    assert sides == [56, 28, *[14] * 5, *[7] * 9]


def test_every_named_network_has_figures() -> None:
    spaces = [HybridSpace(HybridSpace.default_shape(macro), 1000, macro) for macro in HybridSpace.macros()]
    assert {name for space in spaces for name in space.named()} == {*FIGURES, "bossnet_t0"}


@pytest.mark.parametrize(
    "name",
    ["shvit_s1", *(pytest.param(n, marks=pytest.mark.slow) for n in (*FIGURES, "bossnet_t0") if n != "shvit_s1")],
)
def test_published_networks_run_as_onnx(name: str) -> None:
    space = home(name)
    network = space.build(space.parse(name))
    model = to_onnx(network, space.input_shape)
    onnx.checker.check_model(model, full_check=True)
    assert disagreement(model, network, space.input_shape) < 1e-4


EVERYTHING = """c32,mb_k5_e3,fused_k3_e2,dw_k7_e2,merge,c64,linear_k3_e2,shsa_k3_e2,resconv_r2,
              fused_k3_e3,c96,resatt_r2,low_r1,skip"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "text"),
    [(SMALL, "".join(EVERYTHING.split())), (home("lowformer_b0"), "lowformer_b0"), (home("shvit_s1"), "shvit_s1")],
    ids=["every block", "lowformer_b0", "shvit_s1"],
)
def test_networks_are_delivered_as_onnx(space: HybridSpace, text: str, tmp_path: Path) -> None:
    network = space.build(space.parse(text))
    export(network, space.input_shape, tmp_path / "x.onnx", {}, torch.randn(2, *space.input_shape))


def test_hytra_has_the_scales_of_its_fabric() -> None:
    rows = HYTRA.positions()[2:-1]
    found = {(block.out_shape[1], block.out_shape[0]) for row in rows for block in row}
    assert found == {(56, 256), (28, 512), (14, 1024), (7, 2048)}
    assert len(rows) == 16
    assert {block.out_shape[1] for row in rows for block in row if isinstance(block, ResAtt)} == {14, 7}


# --- what a space offers


@pytest.mark.parametrize("side", [20, 28, 32, 39, 48, 64, 79])
def test_small_spaces_are_measured_block_by_block(side: int) -> None:
    assert 100 <= len(HybridSpace((3, side, side), 10).distinct_blocks()) <= 150


@pytest.mark.parametrize(
    ("side", "macro"),
    [(20, "small-28"), (28, "small-28"), (40, "small-64"), (64, "small-64"), (96, "large"), (256, "large")],
)
def test_macro_architecture_by_image(side: int, macro: str) -> None:
    assert HybridSpace((3, side, side), 10).name == f"hybrid/{macro}"


@pytest.mark.parametrize("side", [19, 257])
def test_images_that_do_not_fit(side: int) -> None:
    with pytest.raises(InputError, match=f"images of {side} px do not fit the hybrid space: it takes 20 to 256 px"):
        HybridSpace((3, side, side), 10)


@pytest.mark.parametrize(
    "space", [SMALL, HybridSpace((3, 39, 39), 10), LARGE, FABRIC, HYTRA], ids=lambda s: str(s.input_shape)
)
def test_few_enough_pixels_attend(space: HybridSpace) -> None:
    attending = [block for block in space.distinct_blocks() if isinstance(block, Attends)]
    assert attending and max(block.tokens for block in attending) <= 256


def test_attention_is_offered_by_the_number_of_pixels() -> None:
    """28 px images have 14 x 14 pixels at the first scale, those of 39 px 20 x 20."""
    offered = {side: decisions_of(HybridSpace((3, side, side), 10))["layer01_at1"] for side in (28, 39)}
    assert set(offered[28]) - set(offered[39]) == {"shsa_k3_e2", "resatt_r2", "low_r1"}
    assert "linear_k3_e2" in offered[39]


@pytest.mark.parametrize("space", [SMALL, FABRIC, HYTRA], ids=lambda space: space.name)
def test_a_decision_has_the_same_options_whenever_it_is_taken(space: HybridSpace) -> None:
    seen: dict[str, set[tuple[str, ...]]] = {}
    rng = np.random.default_rng(0)

    def choose(name: str, options: Sequence[str]) -> str:
        seen.setdefault(name, set()).add(tuple(options))
        return options[int(rng.integers(len(options)))]

    for _ in range(300):
        space.decide(choose)
    assert all(len(every) == 1 and len(next(iter(every))) > 1 for every in seen.values())


@pytest.mark.parametrize("space", [SMALL, LARGE, FABRIC, HYTRA], ids=lambda space: space.name)
def test_the_number_of_decisions_is_the_largest(space: HybridSpace) -> None:
    rng = np.random.default_rng(0)
    found = {len(sample(space, rng).decisions) for _ in range(500)}
    assert max(found) == space.searchable
    assert (len(found) > 1) is (space in (FABRIC, HYTRA))


def test_asymmetric_networks_and_their_opposites_are_points() -> None:
    """AsCAN: convolution early and attention late can be found, and so can anything else."""
    conv, attention = "mb_k3_e3", "resatt_r2"
    for first, last in ((conv, attention), (attention, conv)):
        text = f"c32,{first},{first},{first},merge,c64,{first},{last},{first},merge,c96,{last},{last},{last}"
        blocks = SMALL.blocks(SMALL.parse(text))
        attends = [isinstance(block, ResAtt) for block in blocks if block.residual or isinstance(block, ResAtt)]
        assert attends == [option == attention for option in [first] * 4 + [last, first] + [last] * 3]


# --- equal networks are equal architectures


def runs(space: SearchSpace, architecture: Architecture) -> tuple[Block, ...]:
    """Return the blocks that compute something: equal networks run equal blocks."""
    return tuple(block for block in space.blocks(architecture) if not isinstance(block, Identity))


def drawn_as_written(space: HybridSpace, rng: np.random.Generator) -> str:
    """Draw decisions, of few kinds that many networks come up again, as a text that is not yet canonical."""
    taken: list[str] = []

    def choose(name: str, options: Sequence[str]) -> str:
        few = options if name.endswith("_scale") else [o for o in options if o in (SKIP, "mb_k3_e3")] or options[:1]
        taken.append(SKIP if SKIP in few and rng.random() < 0.7 else few[int(rng.integers(len(few)))])
        return taken[-1]

    space.decide(choose)
    return ",".join(taken)


@pytest.mark.parametrize("space", [SMALL, FABRIC], ids=lambda space: space.name)
def test_equal_networks_are_equal_architectures(space: HybridSpace) -> None:
    rng = np.random.default_rng(0)
    by_network: dict[tuple[Block, ...], set[Architecture]] = {}
    texts = {drawn_as_written(space, rng) for _ in range(3000)}
    for text in texts:
        architecture, written = space.parse(text), space.as_written(text)
        assert runs(space, architecture) == runs(space, written)
        assert space.parse(architecture.text) == architecture
        by_network.setdefault(runs(space, written), set()).add(architecture)
    assert len(by_network) < 0.9 * len(texts)
    assert all(len(architectures) == 1 for architectures in by_network.values())


def test_skips_come_last_at_their_scale() -> None:
    one = SMALL.parse("c32,skip,mb_k3_e3,skip,merge,c64,skip,skip,dw_k7_e2,merge,c96,skip,low_r1,skip")
    assert one.text.endswith("c32,mb_k3_e3,skip,skip,merge,c64,dw_k7_e2,skip,skip,merge,c96,low_r1,skip,skip")


def test_going_down_comes_as_early_as_it_may() -> None:
    """Layer 3 may run at the first scale or at the second: a skip above is a skip below."""
    start, end = "c32,mb_k3_e3,skip", "skip,skip,down,merge,c96,skip,skip,skip,skip"
    above = FABRIC.parse(f"{start},keep,skip,down,merge,c64,{end}")
    below = FABRIC.parse(f"{start},down,merge,c64,skip,{end}")
    assert runs(FABRIC, above) == runs(FABRIC, below)
    assert above == below


# --- options


def test_options_say_what_blocks_are() -> None:
    shape = (32, 8, 8)
    assert block_of("mb_k5_e3", shape, 64, 2).key == "mbconv_k5_s2_e3_g1_o64_32x8x8"
    assert block_of("fused_k3_e2", shape).key == "fused_mbconv_k3_s1_e2_o32_32x8x8"
    assert block_of("resatt_r2", shape).key == "res_att_s1_r2_o32_32x8x8"
    assert block_of("skip", shape).free
    with pytest.raises(ValueError, match="no operator is called 'mbx'"):
        block_of("mbx_k3", shape)


@pytest.mark.parametrize("macro", HybridSpace.macros())
def test_all_scales_have_a_skip_or_none_where_layers_may_run_at_several(macro: str) -> None:
    space = HybridSpace(HybridSpace.default_shape(macro), 10, macro)
    if space.chain() is None:
        skips = {SKIP in options for name, options in decisions_of(space).items() if "_at" in name}
        assert len(skips) == 1


@pytest.mark.parametrize("side", [28, 64])
@pytest.mark.parametrize("kind", ["conv", "late-attention"])
def test_sub_spaces_hold_networks_of_one_kind(kind: str, side: int) -> None:
    part = HybridSpace((1, side, side), 10, f"{kind}-{side}")
    whole = HybridSpace((1, side, side), 10, f"small-{side}")
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = sample(part, rng)
        assert whole.blocks(whole.parse(drawn.text.replace(part.name, whole.name))) == part.blocks(drawn)
    options = decisions_of(part)
    assert all(SKIP in kept for name, kept in options.items() if "_at" in name)
    kinds = {name: {operator_of(o) for o in kept} - {SKIP} for name, kept in options.items() if "_at" in name}
    attention = {"linear", "shsa", "resatt", "low"}
    for name, kept in kinds.items():
        assert kept and (kept <= attention if kind != "conv" and name.endswith("_at3") else not kept & attention)


@pytest.mark.parametrize(
    ("space", "kinds"),
    [
        (SMALL, {"mb mb mb", "dw dw dw", "dw dw shsa", "dw shsa shsa"}),
        (LARGE, {"mb mb mb mb", "dw dw dw dw", "dw dw dw shsa", "dw dw shsa shsa"}),
        (HybridSpace((3, 64, 64), 10, "conv-64"), {"mb mb mb", "dw dw dw"}),
        (HybridSpace((3, 64, 64), 10, "late-attention-64"), {"mb mb linear", "dw dw linear", "dw dw shsa"}),
    ],
    ids=["small", "large", "convolutions", "late attention"],
)
def test_baseline_family_is_of_one_kind_at_each_scale(space: HybridSpace, kinds: set[str]) -> None:
    family = space.baseline_family()
    assert len(set(family)) == len(family)
    found = []
    for architecture in family:
        at: dict[str, set[str]] = {}
        for name, option in architecture.decisions:
            if "_at" in name and option != SKIP:
                at.setdefault(name.partition("_at")[2], set()).add(operator_of(option))
        assert all(len(operators) == 1 for operators in at.values())
        found.append([operator for _, (operator,) in sorted(at.items())])
    scales = max(map(len, found))
    assert {" ".join(operators) for operators in found if len(operators) == scales} == kinds
