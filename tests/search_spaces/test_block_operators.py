"""Closed-form counts against what the torch modules really compute, shapes against real forwards, keys, rounding."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn

from search_spaces.block import Block, Network, Shape
from search_spaces.cell_operators import AveragePool, NormClassifier, ReLUConvNorm, ResidualDown, Zero
from search_spaces.operators import (
    ChannelShuffle,
    Classifier,
    ConvNormReLU,
    Identity,
    MBConv,
    conv_norm,
    round_channels,
)
from search_spaces.squeeze_operators import ConvNormHSwish, PooledHead, Resize, SqueezeExcite, SqueezeMBConv

SHAPES: list[Shape] = [(8, 7, 5), (16, 8, 8), (24, 1, 1), (40, 2, 3), (8, 14, 9)]
BLOCKS: list[Block] = [
    *(ConvNormReLU((c, 9, 6), o, k, s) for c, o, k, s in itertools.product((1, 3), (8, 12), (1, 3, 5), (1, 2))),
    *(
        MBConv(shape, out, kernel, stride, expansion, groups)
        for shape in SHAPES
        for out, kernel, stride, expansion, groups in itertools.product(
            (shape[0], 16), (3, 5, 7), (1, 2), (1, 3, 6), (1, 2)
        )
    ),
    MBConv((8, 7, 5), 16, 3, 1, 1.04),
    *(MBConv((16, 7, 5), out, 3, s, 1, g, True) for out in (16, 24) for s in (1, 2) for g in (1, 2)),
    MBConv((8, 7, 5), 8, 3, 1, 2.5),
    MBConv((12, 7, 5), 8, 5, 2, 1),
    MBConv((3, 7, 5), 3, 3, 1, 1),
    *(Identity(shape) for shape in SHAPES),
    *(Classifier(shape, classes) for shape in SHAPES for classes in (1, 10)),
    *(kind(shape) for shape in SHAPES for kind in (AveragePool, Zero)),
    *(ReLUConvNorm(shape, 12, kernel, relu) for shape in SHAPES for kernel in (1, 3) for relu in (True, False)),
    *(ResidualDown((c, 8, 6), out) for c in (8, 12) for out in (8, 16)),
    *(NormClassifier(shape, classes) for shape in SHAPES for classes in (1, 10)),
    *(
        SqueezeMBConv(shape, out, 3, stride, expansion, 1, always_expand, True, hswish)
        for shape, out, stride, expansion, always_expand, hswish in itertools.product(
            SHAPES, (8, 12), (1, 2), (1, 2.5), (True, False), (True, False)
        )
        if not always_expand or expansion == 1
    ),
    SqueezeMBConv((16, 7, 5), 16, 5, 1, 3, squeeze=False, hswish=True),
    *(ConvNormHSwish((3, 9, 6), 8, kernel, stride) for kernel in (1, 3) for stride in (1, 2)),
    *(PooledHead(shape, hidden, 10) for shape in SHAPES for hidden in (4, 16)),
    *(Resize((3, 9, 6), height, width) for height, width in ((9, 4), (5, 4), (12, 6))),
]


def test_made_up_blocks_are_different() -> None:
    assert len(set(BLOCKS)) > 0.7 * len(BLOCKS)


def counted_macs(module: nn.Module, shape: Shape) -> int:
    """Count the multiply-accumulates of a forward pass, weight by weight, and the inputs of global poolings."""
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            assert output.shape[1] == layer.weight.shape[0]
            total += layer.weight.numel() * output.shape[2] * output.shape[3]
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()
        elif isinstance(layer, nn.Hardswish) and output.dim() == 2:
            total += output.numel()  # pooled once more, a pixel each

    def add_pool(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal total
        total += inputs[0].numel()

    for layer in module.modules():
        layer.register_forward_hook(add)
        if isinstance(layer, SqueezeExcite) or any(isinstance(child, nn.Linear) for child in layer.children()):
            layer.register_forward_pre_hook(add_pool)
    with torch.no_grad():
        module.eval()(torch.randn(1, *shape))
    return total


@pytest.mark.parametrize("kind", dict.fromkeys(map(type, BLOCKS)))
def test_counts_and_shapes_are_those_of_the_module(kind: type[Block]) -> None:
    chosen = [block for block in BLOCKS if isinstance(block, kind)]
    assert chosen
    for block in dict.fromkeys(chosen):
        module = block.build()
        weights = [layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        assert block.params == sum(weights), block.key
        assert block.macs == counted_macs(module, block.in_shape), block.key
        with torch.no_grad():
            out = module.eval()(torch.randn(2, *block.in_shape))
        assert tuple(out.flatten(1).shape) == (2, torch.Size(block.out_shape).numel()), block.key
        if kind not in (Classifier, NormClassifier, PooledHead):
            assert tuple(out.shape[1:]) == block.out_shape, block.key


def test_macs_by_hand() -> None:
    # 8 -> 24 on 7 x 5, 3 x 3 depthwise with stride 2 to 4 x 3, 24 -> 16.
    block = MBConv((8, 7, 5), 16, 3, 2, 3)
    assert block.mid_channels == 24
    assert block.out_shape == (16, 4, 3)
    assert block.params == 8 * 24 + 24 * 9 + 24 * 16
    assert block.macs == 8 * 24 * 35 + (24 * 9 + 24 * 16) * 12
    assert Classifier((6, 2, 3), 4).macs == 6 * 4 + 6 * 2 * 3
    assert ConvNormReLU((3, 5, 5), 4, 3, 2).macs == 3 * 4 * 9 * 9
    # A quarter of 72 channels is 18; 16 would be less than 95 % of it.
    squeezed = SqueezeMBConv((24, 7, 5), 16, 3, 2, 3, squeeze=True)
    assert squeezed.squeezed_channels == 24
    assert squeezed.macs == MBConv((24, 7, 5), 16, 3, 2, 3).macs + 2 * 72 * 24 + 72 * 12
    assert PooledHead((6, 2, 3), 4, 5).macs == 6 * 2 * 3 + 6 * 4 + 4 + 4 * 5
    assert Resize((6, 2, 3), 1, 2).macs == 0


def test_keys_are_equal_only_for_equal_blocks() -> None:
    blocks = list(dict.fromkeys(BLOCKS))
    assert len({block.key for block in blocks}) == len(blocks)
    assert len({f"{block.spec}|{block.in_shape}" for block in blocks}) == len(blocks)


@pytest.mark.parametrize(
    "block",
    [
        ConvNormReLU((8, 6, 5), 16, 3, 1),
        MBConv((8, 6, 5), 8, 3, 1, 1, 2),
        Classifier((8, 6, 5), 4),
        ReLUConvNorm((8, 6, 5), 16, 3),
        ResidualDown((8, 6, 4), 16),
        NormClassifier((8, 6, 5), 4),
        SqueezeMBConv((8, 6, 5), 8, 3, 1, 1, 2, squeeze=True, hswish=True),
        ConvNormHSwish((8, 6, 5), 16, 3, 1),
        PooledHead((8, 6, 5), 4, 5),
        Resize((8, 6, 5), 4, 3),
    ],
)
def test_every_field_is_in_the_key(block: Block) -> None:
    for field in dataclasses.fields(block):
        value = getattr(block, field.name)
        if isinstance(value, tuple):
            changes = [tuple(side + (i == axis) for i, side in enumerate(value)) for axis in range(3)]
        else:
            changes = [not value] if isinstance(value, bool) else [value + 1]
        for change in changes:
            assert dataclasses.replace(block, **{field.name: change}).key != block.key, field.name


def test_key_tells_computations_apart_not_ways_to_ask_for_them() -> None:
    assert MBConv((16, 8, 8), 16, 3, 1, 3, 1, True).key == MBConv((16, 8, 8), 16, 3, 1, 3, 1, False).key
    assert MBConv((16, 8, 8), 16, 3, 1, 1, 1, True).key != MBConv((16, 8, 8), 16, 3, 1, 1, 1, False).key


def test_key_is_plain_text_of_everything() -> None:
    assert MBConv((16, 8, 9), 24, 5, 2, 6, 2).key == "mbconv_k5_s2_e6_g2_o24_16x8x9"
    assert MBConv((16, 8, 9), 24, 5, 2, 1).key == "mbconv_k5_s2_e1_g1_direct_o24_16x8x9"
    assert ConvNormReLU((1, 28, 28), 16, 3, 2).key == "conv_k3_s2_o16_1x28x28"
    assert Identity((16, 4, 4)).key == "identity_16x4x4"
    assert Classifier((64, 4, 4), 10).key == "classifier_o10_64x4x4"


def test_free_blocks_run_nothing() -> None:
    free = {type(block) for block in BLOCKS if block.free}
    assert free == {Identity, Zero}
    assert all(block.macs == block.params == 0 for block in BLOCKS if block.free)


def test_average_pool_by_hand() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3)
    expected = torch.tensor([[2.0, 2.5, 3.0], [2.0, 2.5, 3.0]]).view(1, 1, 2, 3)
    torch.testing.assert_close(AveragePool((1, 2, 3)).build()(image), expected)


def test_zero_keeps_the_gradient_of_what_came_before() -> None:
    image = torch.ones(1, 2, 3, 3, requires_grad=True)
    Zero((2, 3, 3)).build()(image).sum().backward()
    assert image.grad is not None and not image.grad.any()


@pytest.mark.parametrize("divisor", [4, 8])
def test_round_channels(divisor: int) -> None:
    for tenth in range(1, 4000):
        channels = tenth / 10
        rounded = round_channels(channels, divisor)
        assert rounded % divisor == 0 and rounded >= divisor
        assert rounded >= 0.95 * channels
        # The nearest multiple (upwards from the middle), or the one above where that falls too short.
        nearest = max(divisor, divisor * int((channels + divisor / 2) // divisor))
        assert rounded == (nearest if nearest >= 0.95 * channels else nearest + divisor)


@pytest.mark.parametrize(("channels", "rounded"), [(1, 8), (11, 16), (12, 16), (8.4, 8), (8.5, 16), (96, 96)])
def test_round_channels_by_hand(channels: float, rounded: int) -> None:
    assert round_channels(channels) == rounded


def test_channel_shuffle_interleaves_the_groups() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert ChannelShuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    x = torch.randn(2, 12, 3, 5)
    for groups in (1, 2, 3, 4):
        assert torch.equal(ChannelShuffle(groups)(x), nn.functional.channel_shuffle(x, groups))


def reference_mbconv(block: MBConv, module: nn.Module, x: Tensor) -> Tensor:
    """Compute the block from the weights alone, written down a second time."""
    weights = dict(module.state_dict())

    def conv(name: str, y: Tensor, stride: int, groups: int) -> Tensor:
        w = weights[f"{name}.conv.weight"]
        y = nn.functional.conv2d(y, w, None, stride, w.shape[-1] // 2, 1, groups)
        mean, var = weights[f"{name}.norm.running_mean"], weights[f"{name}.norm.running_var"]
        scale = weights[f"{name}.norm.weight"] / (var + 1e-5).sqrt()
        shift = weights[f"{name}.norm.bias"] - mean * scale
        return y * scale[:, None, None] + shift[:, None, None]

    y = x
    if "expand.conv.weight" in weights:
        y = conv("expand", y, 1, block.groups).relu()
    y = nn.functional.channel_shuffle(y, block.groups)
    y = conv("depthwise", y, block.stride, y.shape[1]).relu()
    y = conv("project", y, 1, block.groups)
    return x + y if y.shape == x.shape else y


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("expansion", [1, 3])
@pytest.mark.parametrize(("out", "stride"), [(16, 1), (16, 2), (24, 1)])
def test_mbconv_equals_a_second_implementation(groups: int, expansion: int, out: int, stride: int) -> None:
    block = MBConv((16, 7, 6), out, 5, stride, expansion, groups)
    module = block.build().eval()
    for name, value in module.state_dict().items():
        if value.is_floating_point() and "conv" not in name:
            value.copy_(torch.rand_like(value) + 0.5)
    x = torch.randn(2, *block.in_shape)
    with torch.no_grad():
        assert torch.allclose(module(x), reference_mbconv(block, module, x), atol=1e-4)


def test_only_blocks_that_keep_the_shape_add_their_input() -> None:
    for stride, out, adds in ((1, 16, True), (2, 16, False), (1, 24, False)):
        block = MBConv((16, 6, 6), out, 3, stride, 3)
        module = block.build().eval()
        for parameter in module.parameters():
            parameter.data.zero_()
        x = torch.randn(1, *block.in_shape)
        with torch.no_grad():
            expected = x if adds else torch.zeros(1, *block.out_shape)
            assert torch.equal(module(x), expected)


def test_conv_norm_has_an_activation_only_if_asked() -> None:
    assert [type(layer) for layer in conv_norm(4, 8, 3, 1, 1, relu=True)][-1] is nn.ReLU
    assert [type(layer) for layer in conv_norm(4, 8, 3, 1, 1, relu=False)][-1] is nn.BatchNorm2d


def test_network_names_its_layers_by_position() -> None:
    network = Network([nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 2)])
    assert {name.rpartition(".")[0] for name, _ in network.named_parameters()} == {"layers.0", "layers.2"}
    x = torch.randn(5, 3)
    assert torch.equal(network(x), network.layers[2](network.layers[0](x)))


def test_shared_part_is_leading_channels_and_the_central_window() -> None:
    whole = torch.arange(6 * 4 * 49.0).reshape(6, 4, 7, 7)
    block = MBConv((8, 6, 6), 8, 3, 1, 3)
    part = block.shared_part("depthwise.conv.weight", (5, 2, 3, 3), whole)
    assert torch.equal(part, whole[:5, :2, 2:5, 2:5])
    assert torch.equal(block.shared_part("depthwise.norm.bias", (2,), torch.arange(5.0)), torch.arange(2.0))


@pytest.mark.parametrize("out", [16, 24])
def test_grouped_block_with_shared_parts_is_the_dense_block_without_the_other_connections(out: int) -> None:
    grouped = MBConv((16, 6, 6), out, 3, 1, 1, 2, True)
    dense = MBConv((16, 6, 6), out, 3, 1, 1, 1, True)
    one, other = grouped.build().eval(), dense.build().eval()
    whole = {name: torch.rand_like(value) for name, value in other.named_parameters()}
    for name, value in one.named_parameters():
        value.data.copy_(grouped.shared_part(name, value.shape, whole[name]))
    group_in = torch.arange(16) // 8
    group_mid = torch.arange(16) % 8 // 4  # after the shuffle even and odd places come from the two groups
    group_out = torch.arange(out) // (out // 2)
    whole["expand.conv.weight"] *= (group_in[:, None] == group_in[None, :])[:, :, None, None]
    whole["project.conv.weight"] *= (group_out[:, None] == group_mid[None, :])[:, :, None, None]
    for name, value in other.named_parameters():
        value.data.copy_(whole[name])
    x = torch.randn(2, 16, 6, 6)
    with torch.no_grad():
        assert torch.allclose(one(x), other(x), rtol=1e-4, atol=1e-3)
