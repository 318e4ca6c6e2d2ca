"""The blocks of hybrid networks against what their modules compute, and against second implementations."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from counting import counted, weights
from torch import Tensor, nn

from search_spaces.attention import Attends, LinearAngularBlock, SingleHeadBlock
from search_spaces.block import Block, Shape
from search_spaces.bottleneck import ResAtt, ResConv
from search_spaces.frame import ConvStem, MaxPool, PooledNormHead
from search_spaces.hybrid_operators import DepthwiseFFN, FusedMBConv, PatchMerging
from search_spaces.lowformer import LowFormerBlock

SHAPES: list[Shape] = [(16, 7, 5), (48, 8, 8), (64, 2, 3), (128, 1, 1)]
BLOCKS: list[Block] = [
    *(FusedMBConv(shape, out, k, s, 2) for shape in SHAPES for out in (16, 24) for k in (3, 5) for s in (1, 2)),
    *(DepthwiseFFN(shape, kernel, e) for shape in SHAPES for kernel in (3, 7) for e in (2, 3)),
    *(PatchMerging(shape, out) for shape in SHAPES for out in (16, 40)),
    *(SingleHeadBlock(shape, 3, 2) for shape in SHAPES),
    *(LinearAngularBlock(shape, 3, 2) for shape in SHAPES),
    *(LowFormerBlock(shape, stride) for shape in [*SHAPES, (128, 5, 6), (256, 3, 5)] for stride in (1, 2)),
    *(
        kind(shape, out, stride, reduction)
        for kind in (ResConv, ResAtt)
        for shape in [*SHAPES, (160, 4, 4)]
        for out, stride, reduction in itertools.product((shape[0], 32), (1, 2), (2, 4))
    ),
    *(ConvStem((c, 21, 34), 32, steps) for c in (1, 3) for steps in (1, 2, 3, 4)),
    *(MaxPool(shape) for shape in SHAPES),
    *(PooledNormHead(shape, 10, hidden) for shape in SHAPES for hidden in (0, 12)),
]


@pytest.mark.parametrize("kind", dict.fromkeys(map(type, BLOCKS)))
def test_counts_and_shapes_are_those_of_the_module(kind: type[Block]) -> None:
    for block in dict.fromkeys(block for block in BLOCKS if type(block) is kind):
        module = block.build()
        assert block.params == weights(module), block.key
        assert block.macs == sum(counted(module, block.in_shape)), block.key
        with torch.no_grad():
            out = module.eval()(torch.randn(2, *block.in_shape))
        expected = (2, 10) if kind is PooledNormHead else (2, *block.out_shape)
        assert tuple(out.shape) == expected, block.key
        assert set(block.widths) <= {name for name, _ in module.named_modules()}


def test_keys_are_equal_only_for_equal_blocks() -> None:
    blocks = list(dict.fromkeys(BLOCKS))
    assert len({block.key for block in blocks}) == len(blocks)


EXAMPLES: list[Block] = [
    FusedMBConv((16, 6, 5), 16, 3, 1, 2),
    DepthwiseFFN((16, 6, 5), 3, 2),
    PatchMerging((16, 6, 5), 24),
    SingleHeadBlock((48, 6, 5), 3, 2),
    LinearAngularBlock((48, 6, 5), 3, 2),
    LowFormerBlock((64, 6, 5), 1),
    ResConv((32, 6, 5), 32, 1, 2),
    ResAtt((32, 6, 5), 32, 1, 2),
    ConvStem((3, 12, 12), 32, 2),
    MaxPool((8, 6, 5)),
    PooledNormHead((8, 6, 5), 4, 5),
]


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.key)
def test_every_field_is_in_the_key(block: Block) -> None:
    for field in dataclasses.fields(block):
        value = getattr(block, field.name)
        if isinstance(value, tuple):
            changes = [tuple(side + (i == axis) for i, side in enumerate(value)) for axis in range(3)]
        else:
            changes = [value + 1]
        for change in changes:
            assert dataclasses.replace(block, **{field.name: change}).key != block.key, field.name


def test_keys_are_plain_text_of_everything() -> None:
    assert [block.key for block in EXAMPLES[:5]] == [
        "fused_mbconv_k3_s1_e2_o16_16x6x5",
        "depthwise_ffn_k3_e2_16x6x5",
        "patch_merging_o24_16x6x5",
        "single_head_k3_e2_48x6x5",
        "linear_angular_k3_e2_48x6x5",
    ]
    assert LowFormerBlock((64, 7, 7), 2).key == "lowformer_r2_64x7x7"
    assert ResAtt((32, 8, 8), 64, 2, 4).key == "res_att_s2_r4_o64_32x8x8"


def test_macs_by_hand() -> None:
    # 14 channels, of which 3 attend, at 2 x 2 pixels; 9 taps each, twice 14 to 28.
    block = SingleHeadBlock((14, 2, 2), 3, 2)
    assert block.params == 14 * 9 + 2 * 14 * 28 + 3 * (16 + 16 + 3) + 14 * 14
    assert block.macs == 4 * block.params + 4 * 4 * (16 + 3)
    # Attention at 2 x 2 of 3 x 4 pixels, one head of 8 of 16 channels; kernels of 5 and, back again, of 4.
    slim = LowFormerBlock((16, 3, 4), 2)
    around = 16 * 25 + 16 * 24 + 8 * 16 * 16
    beside = 2 * 16 * 64 + 16 * 64 * 9 + 64 * 16
    assert (slim.tokens, slim.heads, slim.inner_channels) == (4, 1, 8)
    assert slim.params == around + beside
    assert slim.macs == 4 * around + 12 * beside + 2 * 4 * 4 * 8
    angular = LinearAngularBlock((48, 3, 4), 3, 2)
    assert angular.head_channels == 16 and LinearAngularBlock((40, 3, 4), 3, 2).head_channels == 8
    assert angular.macs == 12 * (angular.params + 2 * 48 * 16)


def test_cost_of_blocks_of_shvit_and_lowformer() -> None:
    """Figures of PyTorch Image Models' implementations: blocks of SHViT-S1 at 14, 7 and 4 px, of LowFormer-B0 at 14."""
    found = [counted(block.build(), block.in_shape)[0] for block in (
        DepthwiseFFN((128, 14, 14), 3, 2), SingleHeadBlock((224, 7, 7), 3, 2), SingleHeadBlock((320, 4, 4), 3, 2),
        LowFormerBlock((128, 14, 14), 2),
    )]  # fmt: skip
    assert [round(macs / 1e6, 2) for macs in found] == [13.07, 12.73, 8.37, 162.23]


@pytest.mark.parametrize(("channels", "attended"), [(224, 48), (308, 66), (320, 68), (336, 72), (352, 75), (448, 96)])
def test_channels_that_attend_are_the_published_ones(channels: int, attended: int) -> None:
    assert SingleHeadBlock((channels, 7, 7), 3, 2).attended == attended


@pytest.mark.parametrize(
    ("channels", "heads", "inner"), [(16, 1, 8), (64, 1, 32), (128, 2, 64), (160, 2, 80), (256, 4, 128), (512, 8, 256)]
)
def test_heads_of_lowformer(channels: int, heads: int, inner: int) -> None:
    block = LowFormerBlock((channels, 7, 7), 1)
    assert (block.heads, block.inner_channels) == (heads, inner)


def test_heads_of_hytra() -> None:
    heads = {out: ResAtt((out, 7, 7), out, 1, 4).heads for out in (64, 256, 512, 1024, 2048)}
    assert heads == {64: 1, 256: 1, 512: 2, 1024: 4, 2048: 8}
    assert ResAtt((600, 7, 7), 600, 1, 4).heads == 2  # of 75 channels each


def test_attention_knows_how_many_pixels_attend() -> None:
    blocks = [block for block in BLOCKS if isinstance(block, Attends)]
    assert {type(block) for block in blocks} == {SingleHeadBlock, LowFormerBlock, ResAtt}
    assert SingleHeadBlock((16, 7, 5), 3, 2).tokens == 35
    assert LowFormerBlock((16, 7, 5), 2).tokens == 12
    assert ResAtt((16, 7, 5), 32, 2, 4).tokens == 12


# --- second implementations


def randomised(block: Block) -> tuple[nn.Module, Tensor]:
    """Return the block's module, no norm of which is as it starts, and an input."""
    module = block.build().eval()
    for value in module.state_dict().values():
        if value.is_floating_point() and value.dim() == 1:
            value.copy_(torch.rand_like(value) + 0.5)
    return module, torch.randn(2, *block.in_shape)


def parts_of(y: Tensor, heads: int) -> list[Tensor]:
    """Return queries, keys and values (N, heads, pixels, features) of a map whose thirds they are."""
    return [part.unflatten(1, (heads, -1)).flatten(3).transpose(2, 3) for part in torch.chunk(y, 3, dim=1)]


def as_map(y: Tensor, height: int, width: int) -> Tensor:
    """Return values (N, heads, pixels, features) as a map."""
    return y.transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))


@torch.no_grad()
def test_single_head_equals_a_second_implementation() -> None:
    module, x = randomised(SingleHeadBlock((28, 4, 3), 3, 2))
    head = module.single.head
    x1 = x + module.conv[1](module.conv[0](x))
    mean, var = x1[:, :6].mean((1, 2, 3), keepdim=True), x1[:, :6].var((1, 2, 3), keepdim=True, unbiased=False)
    normed = (x1[:, :6] - mean) / (var + 1e-5).sqrt() * head.norm.weight.view(-1, 1, 1) + head.norm.bias.view(-1, 1, 1)
    q, k, v = (part.flatten(2).transpose(1, 2) for part in head.qkv(normed).split([16, 16, 6], 1))
    seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, (4, 3))
    x2 = x1 + head.project(F.relu(torch.cat([seen, x1[:, 6:]], 1)))
    expected = x2 + module.ffn.project(module.ffn.expand(x2))
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_linear_angular_attention_equals_the_quadratic_one() -> None:
    """Castling-ViT: similarities 1/2 + q k / pi to first order, the 1/2 for a pixel's own value."""
    module, x = randomised(LinearAngularBlock((32, 4, 3), 3, 2))
    heads = module.linear.heads
    x1 = x + module.conv[1](module.conv[0](x))
    y = heads.qkv(x1)
    q, k, v = parts_of(y, 2)
    similar = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(2, 3) / math.pi + torch.eye(12) / 2
    seen = F.normalize(similar @ v, dim=-1)
    x2 = x1 + heads.project(as_map(seen, 4, 3) + heads.near(y[:, 64:]))
    expected = x2 + module.ffn.project(module.ffn.expand(x2))
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_slimmed_attention_equals_a_second_implementation(stride: int) -> None:
    module, x = randomised(LowFormerBlock((128, 5, 4), stride))
    slim = module.slimmed.heads
    y = slim.reduce(slim.norm(x))
    assert tuple(y.shape[2:]) == {1: (5, 4), 2: (3, 2)}[stride]
    seen = F.scaled_dot_product_attention(*parts_of(slim.qkv(y), 2))
    up = slim.restore(as_map(seen, *y.shape[2:]))[:, :, :5, :4]
    torch.testing.assert_close(module.slimmed(x), x + up, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("out", "stride"), [(128, 1), (256, 1), (256, 2)])
@torch.no_grad()
def test_bottleneck_with_attention_equals_a_second_implementation(out: int, stride: int) -> None:
    block = ResAtt((128, 5, 4), out, stride, 1)
    module, x = randomised(block)
    sides = block.out_shape[1:]
    heads = module.inner.heads
    y = F.conv2d(F.conv2d(x, module.reduce.weight), module.position.weight, module.position.bias, stride, 1, 1, out)
    seen = F.scaled_dot_product_attention(*parts_of(heads.qkv(module.norm(y).relu()), out // 64))
    y = module.restore(heads.norm(as_map(seen, *sides)).relu())
    pooled = F.avg_pool2d(x, 2, ceil_mode=True) if stride == 2 else x
    # With padding, windows of an odd side begin with the border: the first row alone, then pairs.
    if stride == 2:
        pooled = F.avg_pool2d(torch.cat([x[:, :, :1], x], 2), 2)
    expected = F.relu(y + (x if out == 128 and stride == 1 else module.shortcut.project(pooled)))
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


# --- shared weights


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (LinearAngularBlock((16, 4, 4), 3, 2), LinearAngularBlock((48, 4, 4), 3, 2)),
        (LowFormerBlock((64, 4, 4), 1), LowFormerBlock((128, 4, 4), 1)),
        (ResAtt((64, 4, 4), 64, 1, 1), ResAtt((128, 4, 4), 128, 1, 1)),
    ],
    ids=["linear-angular", "slimmed", "multi-head"],
)
def test_narrower_attention_has_the_leading_heads(narrow: Block, wide: Block) -> None:
    own, whole = dict(narrow.build().named_parameters()), dict(wide.build().named_parameters())
    (name,) = (name for name in own if name.endswith(("qkv.weight", "qkv.conv.weight")))
    rows, per = len(whole[name]) // 3, len(own[name]) // 3
    marked = torch.arange(len(whole[name])).view(-1, 1, 1, 1).expand_as(whole[name])
    found = narrow.shared_part(name, own[name].shape, marked)[:, 0, 0, 0]
    assert found.tolist() == [third * rows + i for third in range(3) for i in range(per)]
    assert all(narrow.shared_part(n, p.shape, whole[n]).shape == p.shape for n, p in own.items())


def test_masks_serve_where_no_norm_or_head_spans_the_channels() -> None:
    maskable = {type(block) for block in BLOCKS if block.maskable}
    assert maskable == {FusedMBConv, DepthwiseFFN, ConvStem, MaxPool, PooledNormHead}
    # A batch norm gives channels that a mask has zeroed its shift; a linear layer takes nothing from them.
    assert [PooledNormHead((8, 2, 2), 5, hidden).maskable for hidden in (0, 6)] == [False, True]
