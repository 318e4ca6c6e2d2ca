"""Each block against torch, its counts against the module's; and the rewrites that networks go through."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latency.emit import disagreement, to_onnx
from search_spaces.block import Block
from search_spaces.einspace.canonical import Fork
from search_spaces.einspace.joins import Add, Concat, Part, Product
from search_spaces.einspace.network import lowered
from search_spaces.einspace.operators import (
    BatchNorm,
    Columns,
    Convolution,
    FeatureMap,
    LayerNorm,
    LeakyReLU,
    Linear,
    Permute,
    Positions,
    Softmax,
)
from search_spaces.einspace.signal import Signal

MAP, COLUMNS = (4, 9, 7), (1, 12, 6)
BLOCKS: list[Block] = [
    Linear(MAP, 16),
    Linear(COLUMNS, 5),
    Convolution(MAP, 5, 3, 2, 1),
    Convolution(MAP, 5, 4, 4, 0),
    *(Columns(MAP, *window) for window in ((1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1))),
    Columns(MAP, 4, 4, 0),
    FeatureMap(COLUMNS, 3, 4),
    Permute(MAP, (1, 2, 0)),
    Part((4, 8, 6), 1, 4, 2),
    *(kind(MAP) for kind in (BatchNorm, LeakyReLU, Softmax, Positions)),
    LayerNorm(COLUMNS),
    Add(MAP, (MAP,)),
    Add(MAP, (MAP,) * 3),
    Concat(MAP, ((2, 9, 7),), 0),
    Concat(MAP, ((4, 9, 3), (4, 9, 1)), 2),
    Product((4, 9, 7), ((4, 7, 3),), False),
    Product((4, 9, 7), ((4, 7, 3),), True),
]  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.key)
def test_shapes_counts_and_onnx(block: Block) -> None:
    module = block.build().eval()
    x = torch.randn(2, *block.in_shape)
    with torch.no_grad():
        out = module(x)
    assert tuple(out.shape[1:]) == block.out_shape
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    weights = sum(layer.weight.numel() for layer in layers)
    if isinstance(block, Positions):
        assert block.params == sum(parameter.numel() for parameter in module.parameters())
    else:
        assert block.params == weights
        places = math.prod(block.out_shape[1:]) if isinstance(block, Convolution) else math.prod(block.out_shape[:2])
        products = math.prod(block.out_shape) * block.in_shape[2] if isinstance(block, Product) else 0
        assert block.macs == weights * places + products
    assert disagreement(to_onnx(module, block.in_shape, 2), module, block.in_shape, 2) < 1e-5


def test_keys_tell_blocks_apart() -> None:
    assert len({block.key for block in BLOCKS}) == len(BLOCKS)
    for block in BLOCKS:
        for field in dataclasses.fields(block):
            value = getattr(block, field.name)
            if isinstance(value, int) and not isinstance(value, bool):
                assert dataclasses.replace(block, **{field.name: value + 1}).key != block.key


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (4, 4, 0)])
def test_columns_are_those_of_unfold(kernel: int, stride: int, padding: int) -> None:
    x = torch.randn(2, *MAP)
    expected = F.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)[:, None]
    assert torch.equal(Columns(MAP, kernel, stride, padding).build()(x), expected)


def test_joins_by_hand() -> None:
    one, two, three = (torch.randn(2, 4, 6, 6) for _ in range(3))
    shape = (4, 6, 6)
    assert torch.equal(Add(shape, (shape, shape)).build()(one, two, three), one + two + three)
    assert torch.equal(Concat(shape, (shape,), 1).build()(one, two), torch.cat([one, two], 2))
    torch.testing.assert_close(Product(shape, (shape,), True).build()(one, two), one @ two / 6**0.5)
    assert torch.equal(Part(shape, 2, 3, 1).build()(one), one[..., 2:4])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (("im2col_k3s2", "linear16", "col2im"), ["conv_bias_k3_s2_p1_o16"]),
        (("im2col_k4s4", "linear16", "norm"), ["conv_bias_k4_s4_p0_o16", "im2col_k1_s1_p0", "layer_norm"]),
        (("im2col_k3s1", "norm", "linear16", "col2im"), ["im2col_k3_s1_p1", "layer_norm", "linear_o16", "col2im_6x8"]),
        (("permute231", "linear16", "permute312"), ["conv_bias_k1_s1_p0_o16"]),
        (("permute231", "relu", "permute312"), ["permute_120", "leaky_relu", "permute_201"]),
        (("im2col_k1s1", "linear16", "linear32", "col2im"), ["conv_bias_k1_s1_p0_o16", "conv_bias_k1_s1_p0_o32"]),
        (("linear16",), ["linear_o16"]),
    ],
    ids=str,
)
def test_rewrites(steps: tuple[str, ...], expected: list[str]) -> None:
    found = [node.block.spec for node in lowered(steps, Signal((4, 6, 8)), 5)]
    assert [spec for spec in found if not spec.startswith("classifier")][: len(expected)] == expected
    assert len(found) <= len(expected) + 2  # the classifier, and the permute before it of columns


def test_columns_are_pooled_over_their_windows() -> None:
    permute, classifier = (node.block for node in lowered(("im2col_k4s4",), Signal((4, 8, 8)), 5)[-2:])
    assert isinstance(permute, Permute)
    assert classifier.in_shape == (64, 4, 1) and classifier.params == 64 * 5


def test_what_branches_compute_alike_is_computed_once() -> None:
    alike, apart = Fork("clone2", "add", (("relu", "softmax"),)), Fork("clone2", "add", (("relu", "norm"),))
    wiring = lowered((alike, apart, Fork("group2_d1", "add", (("softmax",),))), Signal((4, 6, 8)), 5)
    found = [(node.block.spec.partition("_")[0], node.sources) for node in wiring]
    assert found == [
        ("leaky", (0,)), ("softmax", (1,)), ("add2", (2, 2)),
        ("leaky", (3,)), ("batch", (4,)), ("batch", (4,)), ("add2", (5, 6)),
        ("part0", (7,)), ("softmax", (8,)), ("part1", (7,)), ("softmax", (10,)), ("add2", (9, 11)),
        ("classifier", (12,)),
    ]  # fmt: skip
