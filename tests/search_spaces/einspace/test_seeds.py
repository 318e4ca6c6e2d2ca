"""The networks that the authors start from, with the numbers that the paper gives."""

import pytest

from search_spaces.einspace.derivation import Module, Op, Route, count, tokens
from search_spaces.einspace.grammar import COL2IM
from search_spaces.einspace.operators import Columns, Convolution, FeatureMap
from search_spaces.einspace.seeds import mlp_mixer, resnet18, vit, wrn16_4
from search_spaces.einspace.space import EinSpace

SHAPE = (3, 64, 64)
SPACE = EinSpace(SHAPE, 10)
TREES = {"resnet18": resnet18(), "wrn16_4": wrn16_4(), "vit": vit(), "mlp_mixer": mlp_mixer(SHAPE)}
# Terminals, non-terminals and parameters (millions) as published. In the authors' derivations some functions stand
# where the grammar has a computation module around them, three in each layer of ViT, so that as many modules fewer
# were counted.
PUBLISHED = {
    "resnet18": (121, 144, 2, 11.2),
    "wrn16_4": (89, 103, 2, 2.8),
    "vit": (220, 192, 12, 4.4),
    "mlp_mixer": (116, 148, 0, 6.5),
}


@pytest.mark.parametrize("name", TREES)
def test_sizes_are_the_published_ones(name: str) -> None:
    terminals, modules, bare, millions = PUBLISHED[name]
    assert count(TREES[name]) == (terminals, modules + bare)
    network = SPACE.build(SPACE.named()[name])
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        # Patches, their positions, four layers of four heads (3 x 512 x 64), projection and two hidden; classes.
        ("vit", 48 * 512 + 256 * 512 + 4 * (4 * 3 * 512 * 64 + 256 * 512 + 2 * 512**2) + 5120),
        ("mlp_mixer", 48 * 512 + 256 * 512 + 8 * 2 * (256 * 1024 + 512 * 256) + 5120),
    ],
)
def test_weights_by_hand(name: str, weights: int) -> None:
    assert SPACE.params(SPACE.named()[name]) == weights


def test_resnet_is_a_network_of_convolutions() -> None:
    blocks = SPACE.blocks(SPACE.named()["resnet18"])
    convolutions = [block for block in blocks if isinstance(block, Convolution)]
    assert len(convolutions) == 21
    assert not any(isinstance(block, Columns | FeatureMap) for block in blocks)
    # Stem, and per stage what 3 x 3 kernels on 32, 16, 8 and 4 px cost.
    assert sum(block.macs for block in convolutions[:2]) == 64 * 64 * 27 * 64 + 32 * 32 * 576 * 64


def test_patches_are_a_convolution_too() -> None:
    first, second, *_ = SPACE.blocks(SPACE.named()["vit"])
    assert first == Convolution(SHAPE, 512, 4, 4, 0)
    assert second == Columns((512, 16, 16), 1, 1, 0)


@pytest.mark.parametrize("name", TREES)
def test_named_networks_parse_by_name(name: str) -> None:
    assert SPACE.parse(name) == SPACE.canonical_of(TREES[name])


def test_networks_that_do_not_fit_are_not_named() -> None:
    assert set(EinSpace(SHAPE, 10).named()) == set(TREES)
    assert set(EinSpace((1, 28, 28), 10).named()) == set(TREES) - {"mlp_mixer"}  # 196 hidden features are no width
    assert "vit" not in EinSpace((3, 3, 3), 10).named()


def test_counts_by_hand() -> None:
    convolution: Module = Route("im2col_k3s1", Op("linear16"), COL2IM)
    assert count(convolution) == (3, 2)
    assert list(tokens(convolution)) == ["route", "im2col_k3s1", "op", "linear16", "col2im"]
