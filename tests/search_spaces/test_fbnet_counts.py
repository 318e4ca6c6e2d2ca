"""The FBNet space against the authors' published figures.

Figures: facebookresearch/mobile-vision, FBNet model information (MACs of convolutions and linear layers and the
inputs of the global pooling; weights only). Uniform networks: one candidate in all 22 layers, head of 1984.
"""

import dataclasses

import pytest

from search_spaces.fbnet import OPTIONS, FBNetSpace
from search_spaces.operators import MBConv

IMAGENET = FBNetSpace((3, 224, 224), 1000)
IMAGENET_1504 = FBNetSpace((3, 224, 224), 1000, "imagenet-1504")
IMAGENET_1504_EXPAND = FBNetSpace((3, 224, 224), 1000, "imagenet-1504-expand")

PUBLISHED_B = """k3_e1 k3_e6 k5_e1 k3_e1 k3_e1 k5_e6 k5_e3 k3_e6 k5_e6 k5_e6 k5_e6 skip k5_e3
                 k5_e6 k3_e1 k5_e1 k5_e3 k5_e6 k5_e1 k5_e6 k5_e6 k3_e6""".split()
MACS_B_MILLIONS = """5.419 5.018 29.202 3.688 2.484 2.484 17.273 6.698 10.989 13.397 8.166 11.515 0 5.758 15.128
                     2.656 3.007 16.398 21.634 1.884 21.260 21.260 29.482""".split()
UNIFORM = {
    "k3_e1": (81.928, 2.9504),
    "k3_e1_g2": (65.130, 2.8242),
    "k3_e3": (271.965, 4.1121),
    "k3_e6": (502.209, 5.5415),
    "k5_e1": (93.681, 2.9775),
    "k5_e1_g2": (76.883, 2.8513),
    "k5_e3": (307.226, 4.1936),
    "k5_e6": (572.731, 5.7043),
    "skip": (49.516, 2.7785),
}
UNIFORM_ALWAYS_EXPANDING = {
    "k3_e1": (118.468, 3.1592),
    "k3_e1_g2": (83.400, 2.9287),
    "k5_e1": (130.222, 3.1864),
    "k5_e1_g2": (95.154, 2.9558),
}


@pytest.mark.parametrize(
    ("space", "name", "macs", "params"),
    [
        (IMAGENET_1504, "fbnet_a", 244_526_360, 4_270_288),
        (IMAGENET, "fbnet_b", 291_101_640, 4_766_672),
        (IMAGENET, "fbnet_c", 378_233_440, 5_525_424),
    ],
)
def test_published_figures(space: FBNetSpace, name: str, macs: int, params: int) -> None:
    architecture = space.parse(name)
    assert (space.macs(architecture), space.params(architecture)) == (macs, params)


@pytest.mark.parametrize(
    ("name", "macs", "params", "published"),
    [
        ("fbnet_s8", 292_996_376, 4_431_040, (293, 4.43)),
        ("fbnet_iphone_x", 321_872_664, 4_471_376, (322, 4.47)),
    ],
)
def test_networks_for_the_phones(name: str, macs: int, params: int, published: tuple[int, float]) -> None:
    """The paper's counts are in millions; they hold with the narrow head and a first 1x1 convolution everywhere."""
    space = IMAGENET_1504_EXPAND
    architecture = space.parse(name)
    assert (space.macs(architecture), space.params(architecture)) == (macs, params)
    assert (round(macs / 1e6), round(params / 1e6, 2)) == published
    direct = IMAGENET_1504.parse(architecture.text.rpartition(":")[2])
    assert IMAGENET_1504.macs(direct) < macs and IMAGENET_1504.params(direct) < params


def test_fbnet_a_as_the_paper_counts_it() -> None:
    """249 million MACs and 4.3 million parameters, where the authors' released definition has 244.5."""
    architecture = IMAGENET_1504_EXPAND.parse(IMAGENET_1504.parse("fbnet_a").text.rpartition(":")[2])
    assert round(IMAGENET_1504_EXPAND.macs(architecture) / 1e6, 3) == 249.996
    assert round(IMAGENET_1504_EXPAND.params(architecture) / 1e6, 1) == 4.3


def test_narrow_head_saves_what_the_authors_say() -> None:
    wide = IMAGENET.parse("fbnet_c")
    narrow = IMAGENET_1504.parse(wide.text.rpartition(":")[2])
    assert IMAGENET.params(wide) - IMAGENET_1504.params(narrow) == 480 * (352 + 1000)
    assert IMAGENET.macs(wide) - IMAGENET_1504.macs(narrow) == 480 * (352 * 49 + 49 + 1000)


@pytest.mark.parametrize(("name", "millions"), [("fbnet_a", 4.304584), ("fbnet_b", 4.801368), ("fbnet_c", 5.570664)])
def test_parameters_as_torch_counts_them(name: str, millions: float) -> None:
    space = IMAGENET_1504 if name == "fbnet_a" else IMAGENET
    network = space.build(space.parse(name))
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=1e-9)


@pytest.mark.parametrize("option", OPTIONS)
def test_uniform_networks(option: str) -> None:
    architecture = IMAGENET.parse(",".join([option] * 22))
    found = (round(IMAGENET.macs(architecture) / 1e6, 3), round(IMAGENET.params(architecture) / 1e6, 4))
    assert found == UNIFORM[option]


@pytest.mark.parametrize("option", UNIFORM_ALWAYS_EXPANDING)
def test_uniform_networks_that_always_expand(option: str) -> None:
    blocks = [
        dataclasses.replace(block, always_expand=True) if isinstance(block, MBConv) else block
        for block in IMAGENET.blocks(IMAGENET.parse(",".join([option] * 22)))
    ]
    found = (round(sum(b.macs for b in blocks) / 1e6, 3), round(sum(b.params for b in blocks) / 1e6, 4))
    assert found == UNIFORM_ALWAYS_EXPANDING[option]


def test_layers_of_fbnet_b() -> None:
    stem, *layers = IMAGENET.positions()[:-2]
    chosen = [stem[0], *[row[OPTIONS.index(o)] for row, o in zip(layers, PUBLISHED_B, strict=True)]]
    assert [round(block.macs / 1e6, 3) for block in chosen] == [float(value) for value in MACS_B_MILLIONS]
    assert IMAGENET.parse(",".join(PUBLISHED_B)) == IMAGENET.parse("fbnet_b")
