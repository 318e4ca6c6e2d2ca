"""The emitted ONNX file computes what the module computes, and whatever the emitter does not know is refused."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latency.emit import UnsupportedOperation, disagreement, to_onnx
from search_spaces.attention import LinearAngularBlock, SingleHeadBlock
from search_spaces.block import Block, Shape
from search_spaces.bottleneck import ResAtt, ResConv
from search_spaces.cell_operators import AveragePool, NormClassifier, ResidualDown
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.frame import ConvStem, MaxPool, PooledNormHead
from search_spaces.hybrid import HybridSpace
from search_spaces.hybrid_operators import DepthwiseFFN, FusedMBConv, PatchMerging
from search_spaces.lowformer import LowFormerBlock
from search_spaces.nb201 import NB201Space
from search_spaces.operators import Classifier, ConvNormReLU, MBConv
from search_spaces.space import sample
from search_spaces.squeeze_operators import ConvNormHSwish, PooledHead, Resize, SqueezeMBConv


def randomised(module: nn.Module) -> nn.Module:
    """Give every norm statistics and affine terms as after training: fresh ones hide mistakes."""
    for layer in module.modules():
        if isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.2, 3)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return module


def outputs(model: bytes, module: nn.Module, shape: Shape, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what ONNX Runtime and PyTorch make of images; written anew, independent of ``disagreement``."""
    image = torch.randn(batch, *shape)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": image.numpy()})
    with torch.no_grad():
        return found, module.eval()(image).numpy()


def assert_equal(module: nn.Module, shape: Shape, batch: int = 1) -> onnx.ModelProto:
    model = to_onnx(module, shape, batch)
    onnx.checker.check_model(model, full_check=True)
    found, expected = outputs(model, module, shape, batch)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * max(1e-3, np.abs(expected).max())
    return onnx.load_from_string(model)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 30, 45)], ids=str)
def test_every_fbnet_block(shape: Shape) -> None:
    blocks = [block for block in FBNetSpace(shape, 7).distinct_blocks() if block.params]
    assert len(blocks) > 50
    for block in blocks:
        assert_equal(randomised(block.build()), block.in_shape)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 45)], ids=str)
def test_every_fbnetv2_block(shape: Shape) -> None:
    blocks = [block for block in FBNetV2Space(shape, 7).distinct_blocks() if not block.free]
    assert {type(block) for block in blocks} == {Resize, ConvNormHSwish, SqueezeMBConv, PooledHead}
    for block in blocks:
        module = randomised(block.build())
        assert disagreement(to_onnx(module, block.in_shape), module, block.in_shape) < 1e-4
    for block in blocks[::5]:
        assert_equal(randomised(block.build()), block.in_shape)


@pytest.mark.parametrize(("shape", "batch"), [((1, 28, 28), 1), ((1, 28, 28), 4), ((3, 30, 45), 1)], ids=str)
def test_every_hybrid_block(shape: Shape, batch: int) -> None:
    blocks = [block for block in HybridSpace(shape, 7).distinct_blocks() if not block.free]
    assert len({type(block) for block in blocks}) == 11
    for block in blocks:
        module = randomised(block.build())
        assert disagreement(to_onnx(module, block.in_shape, batch), module, block.in_shape, batch) < 1e-4


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    "block",
    [
        FusedMBConv((16, 9, 6), 24, 3, 2, 3),
        DepthwiseFFN((16, 9, 6), 7, 2),
        PatchMerging((16, 9, 6), 24),
        SingleHeadBlock((40, 9, 6), 3, 2),
        LinearAngularBlock((40, 9, 6), 5, 2),
        LowFormerBlock((128, 9, 5), 2),
        LowFormerBlock((256, 3, 4), 1),
        ResConv((16, 9, 6), 32, 2, 4),
        ResConv((32, 9, 6), 32, 1, 4),
        ResAtt((16, 9, 6), 256, 2, 2),
        ConvStem((3, 21, 34), 32, 3),
        MaxPool((8, 9, 6)),
        PooledNormHead((8, 9, 6), 5),
        PooledNormHead((8, 9, 6), 5, 12),
    ],
    ids=lambda block: block.key,
)
def test_blocks_of_hybrid_networks(block: Block, batch: int) -> None:
    assert_equal(randomised(block.build()), block.in_shape, batch)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", [(1, 8, 12), (3, 32, 32)], ids=str)
def test_every_nb201_block(shape: Shape, batch: int) -> None:
    blocks = NB201Space(shape, 7).distinct_blocks()
    assert {block.key.split("_")[0] for block in blocks} == {
        "conv", "relu", "avg", "zero", "identity", "residual", "norm"
    }  # fmt: skip
    for block in blocks:
        if block.spec != "identity":  # a file of no operators
            assert_equal(randomised(block.build()), block.in_shape, batch)


def test_zeros_are_zero() -> None:
    (block,) = {b for b in NB201Space((3, 8, 8), 4).distinct_blocks() if b.spec == "zero" and b.in_shape[0] == 16}
    model = assert_equal(block.build(), block.in_shape, 2)
    found, _ = outputs(model.SerializeToString(), block.build(), block.in_shape, 2)
    assert found.shape == (2, *block.in_shape) and not found.any()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cell", [",".join(["none"] * 6), "all_conv3x3", "cifar10_best"])
def test_whole_cells(cell: str, batch: int) -> None:
    space = NB201Space((3, 8, 8), 6)
    model = assert_equal(randomised(space.build(space.parse(cell))), space.input_shape, batch)
    assert ("Mul" in {node.op_type for node in model.graph.node}) is cell.startswith("none")


def test_cells_without_a_signal_treat_all_images_alike() -> None:
    """Every cell's output is zero, and the residual blocks make no more than constants of it: equal for all images."""
    space = NB201Space((3, 8, 8), 6)
    network = randomised(space.build(space.parse(",".join(["none"] * 6))))
    found, expected = outputs(to_onnx(network, space.input_shape, 4), network, space.input_shape, 4)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(found, found[:1].repeat(4, axis=0), atol=1e-5)


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize(
    "block",
    [
        MBConv((16, 9, 6), 16, 5, 1, 3, 2),
        MBConv((16, 9, 6), 24, 3, 2, 6),
        ConvNormReLU((3, 9, 7), 8, 5, 2),
        Classifier((8, 3, 5), 4),
        AveragePool((4, 5, 3)),
        ResidualDown((4, 6, 10), 8),
        NormClassifier((8, 3, 5), 4),
        SqueezeMBConv((16, 9, 6), 16, 5, 1, 3, squeeze=True, hswish=True),
        PooledHead((8, 3, 5), 16, 4),
        Resize((3, 9, 7), 6, 5),
    ],
    ids=lambda block: block.key,
)
def test_batches(block: Block, batch: int) -> None:
    model = assert_equal(randomised(block.build()), block.in_shape, batch)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_value == batch


@pytest.mark.parametrize(
    "block",
    [
        MBConv((16, 9, 6), 16, 5, 1, 1, 2),
        MBConv((16, 9, 6), 16, 3, 1, 1, 2, True),
        MBConv((16, 9, 6), 24, 5, 2, 6, 2),
        MBConv((24, 1, 1), 24, 5, 1, 3),
        ConvNormReLU((3, 9, 7), 8, 5, 2),
        Classifier((8, 3, 5), 4),
    ],
    ids=lambda block: block.key,
)
def test_blocks_of_odd_sizes(block: Block) -> None:
    assert_equal(randomised(block.build()), block.in_shape)


def test_whole_networks() -> None:
    space = FBNetSpace((3, 21, 34), 6)
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert_equal(randomised(space.build(sample(space, rng))), space.input_shape)


def test_batch_norm_is_folded() -> None:
    model = assert_equal(randomised(MBConv((16, 6, 6), 16, 3, 1, 3).build()), (16, 6, 6))
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu", "Conv", "Relu", "Conv", "Add"]


def test_module_is_emitted_in_evaluation_mode_and_its_weights_stay() -> None:
    module = randomised(ConvNormReLU((3, 6, 6), 8, 3, 1).build()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert_equal(module, (3, 6, 6))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Apply(nn.Module):
    """Runs a function of the module and its input: 4 channels of 4 x 4."""

    def __init__(self, function: Callable[["Apply", Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.named = nn.Conv2d(4, 4, 3, padding="same")
        self.norm = nn.BatchNorm2d(4)
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.instance = nn.BatchNorm2d(4, track_running_stats=False)
        self.linear = nn.Linear(4, 4)
        self.up = nn.ConvTranspose2d(4, 3, 4, 2, 1)
        randomised(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def norm_and_without(m: Apply, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.norm(y) + y


def norm_after_use(m: Apply, x: Tensor) -> Tensor:
    y = m.conv(x)
    z = F.relu(y)
    return m.norm(y) + z


def branch(m: Apply, x: Tensor) -> Tensor:
    if F.relu(x).flatten(1)[:, 0]:
        return F.relu(x)
    return x


def assign(m: Apply, x: Tensor) -> Tensor:
    y = F.relu(x)
    y[:, 0] = 0
    return y


def boolean(m: Apply, x: Tensor) -> Tensor:
    y = F.avg_pool2d(x, x.shape[2:]).view(4)
    return F.relu(x) if y.view(4, 1).transpose(0, 1).reshape(4).numpy()[0] > 0 else x


def truth(m: Apply, x: Tensor) -> Tensor:
    return F.relu(x) if x else x


REFUSED: dict[str, Callable[[Apply, Tensor], Tensor]] = {
    "unknown function": lambda m, x: torch.tanh(x),
    "unknown method": lambda m, x: x.div(2),
    "in place": lambda m, x: x.add_(1),
    "property": lambda m, x: x.data,
    "index": lambda m, x: x[:, 0],
    "new axis": lambda m, x: x[:, None],
    "setitem": assign,
    "branch": branch,
    "numpy": boolean,
    "tolist": lambda m, x: x + x.flatten().tolist()[0],
    "pieces": lambda m, x: F.relu(x.chunk(2, 1)[0]),
    "unpacked": lambda m, x: sum(x.unbind(0)),  # type: ignore[arg-type, return-value]
    "stack of tensors": lambda m, x: torch.stack([x, x], 1),
    "reflecting pad": lambda m, x: F.pad(x, (1, 1, 1, 1), "reflect"),
    "pad with ones": lambda m, x: F.pad(x, (1, 1), value=1.0),
    "keyword": lambda m, x: torch.where(condition=torch.tensor(True), input=x, other=x),
    "add number": lambda m, x: x + 1.0,
    "scaled add": lambda m, x: x.add(x, alpha=2),
    "padding by name": lambda m, x: m.named(x),
    "weights from input": lambda m, x: F.conv2d(x, x.view(4, 4, 2, 2)),
    "norm without affine terms": lambda m, x: m.plain(m.conv(x)),
    "norm of the batch": lambda m, x: m.instance(m.conv(x)),
    "layer norm without affine terms": lambda m, x: F.layer_norm(x, (4,)),
    "norm without affine terms or convolution": lambda m, x: m.plain(x),
    "pool rounded up": lambda m, x: F.avg_pool2d(x, 3, ceil_mode=True),
    "pool with a divisor": lambda m, x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive pool": lambda m, x: F.adaptive_avg_pool2d(x, 1),
    "interpolated by a factor": lambda m, x: F.interpolate(x, scale_factor=0.5, mode="bilinear"),
    "interpolated to the nearest": lambda m, x: F.interpolate(x, (3, 3)),
    "interpolated from corner to corner": lambda m, x: F.interpolate(x, (3, 3), mode="bilinear", align_corners=True),
    "interpolated smoothly": lambda m, x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True),
    "interpolated in one dimension": lambda m, x: F.interpolate(x.view(-1, 4, 16), 7),
    "linear with weights from input": lambda m, x: F.linear(x, x[:1, :1, :, :].view(4, 4)),
    "group norm without affine terms": lambda m, x: F.group_norm(x, 2),
    "normalised by the sum": lambda m, x: F.normalize(x, p=1.0),
    "transposed convolution with weights from input": lambda m, x: F.conv_transpose2d(x, x.view(4, 4, 2, 2)),
    "largest, rounded up": lambda m, x: F.max_pool2d(x, 3, ceil_mode=True),
    "input unused": lambda m, x: torch.zeros(1, 4),
    "input left": lambda m, x: torch.zeros(x.shape),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_operations_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedOperation):
        to_onnx(Apply(REFUSED[name]), (4, 4, 4))


def test_truth_of_a_tensor_is_refused() -> None:
    with pytest.raises(UnsupportedOperation, match="bool"):
        to_onnx(Apply(truth), (1, 1, 1))


KNOWN: dict[str, Callable[[Apply, Tensor], Tensor]] = {
    "sum": lambda m, x: F.relu(x) + x,
    "add": lambda m, x: x.add(m.conv(x)),
    "add a constant": lambda m, x: x + torch.ones(1, 4, 1, 1),
    "two norms": lambda m, x: m.norm(m.norm(m.conv(x))),
    "same convolution twice": lambda m, x: m.norm(m.conv(m.norm(m.conv(x)))),
    "in place activation": lambda m, x: F.relu(m.conv(x), inplace=True),
    "queries": lambda m, x: x.view(x.size(0), 2, x.numel() // x.size(0) // 2) if x.dim() == x.ndim else x,
    "negative axes": lambda m, x: x.transpose(-1, 1),
    "named axes": lambda m, x: x.transpose(dim0=1, dim1=2),
    "linear": lambda m, x: m.linear(F.avg_pool2d(x, x.shape[2:]).flatten(1)),
    "norm without convolution": lambda m, x: m.norm(x),
    "norm after activation": lambda m, x: m.norm(F.relu(m.conv(x))),
    "norm of a sum": lambda m, x: m.norm(m.conv(x) + x),
    "norm beside its input": lambda m, x: m.norm(x) + x,
    "times a tensor": lambda m, x: F.relu(x) * m.conv(x),
    "times itself": lambda m, x: x.mul(x),
    "times a constant": lambda m, x: x * torch.arange(4.0).view(1, 4, 1, 1),
    "constant times": lambda m, x: torch.arange(4.0).view(1, 4, 1, 1) * x,
    "times a number": lambda m, x: x * 0.25,
    "number times": lambda m, x: 2 * x,
    "times a whole number": lambda m, x: x.mul(-3),
    "times zero": lambda m, x: m.conv(x) * 0.0,
    "h-swish": lambda m, x: F.hardswish(4 * m.conv(x)),
    "hard sigmoid": lambda m, x: F.hardsigmoid(4 * m.conv(x)),
    "fewer pixels": lambda m, x: F.interpolate(x, (3, 2), mode="bilinear"),
    "more pixels": lambda m, x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=False),
    "squeezed": lambda m, x: x * F.hardsigmoid(m.conv(F.avg_pool2d(x, x.shape[-2:]))),
    "norm of a scaled convolution": lambda m, x: m.norm(m.conv(x) * 0.5),
    "norm and without": norm_and_without,
    "norm after use": norm_after_use,
    "linear on a map": lambda m, x: m.linear(x),
    "linear on a map without bias": lambda m, x: F.linear(x, m.linear.weight),
    "part": lambda m, x: x[:, 1:3],
    "whole": lambda m, x: F.relu(x[:, :]),
    "every second": lambda m, x: x[:, :, 1::2, ::3],
    "narrowed": lambda m, x: x.narrow(2, 1, 2),
    "list of tensors": lambda m, x: torch.cat([x, m.conv(x)], 1),
    "list of tensors along the last axis": lambda m, x: torch.cat((x, x), dim=-1),
    "leaky": lambda m, x: F.leaky_relu(m.conv(x), 0.1),
    "softmax": lambda m, x: F.softmax(4 * x, dim=-1),
    "softmax of a tensor": lambda m, x: (4 * x).softmax(1),
    "sigmoid": lambda m, x: torch.sigmoid(4 * x),
    "gelu": lambda m, x: F.gelu(4 * x),
    "gelu by tanh": lambda m, x: F.gelu(4 * x, approximate="tanh"),
    "group norm": lambda m, x: F.group_norm(x, 1, m.linear.bias, m.norm.bias),
    "group norm of two groups": lambda m, x: F.group_norm(x, 2, m.linear.bias, m.norm.bias, 0.1),
    "normalised": lambda m, x: F.normalize(x, dim=2),
    "normalised channels": lambda m, x: F.normalize(m.conv(x)),
    "transposed convolution": lambda m, x: m.up(x),
    "transposed convolution of two groups": lambda m, x: F.conv_transpose2d(
        x, m.conv.weight[:, :2], None, (1, 2), (0, 1), (0, 1), 2
    ),
    "largest": lambda m, x: F.max_pool2d(x, 3, 2, 1),
    "largest of two sides": lambda m, x: F.max_pool2d(x, (2, 1)),
    "layer norm": lambda m, x: F.layer_norm(x, (4,), m.linear.bias, m.norm.bias),
    "matrix product": lambda m, x: x @ m.conv(x),
    "permuted": lambda m, x: x.permute(0, 2, -1, 1),
    "permuted by a tuple": lambda m, x: x.permute((0, 3, 1, 2)),
    "padded": lambda m, x: F.pad(x, (1, 2, 0, 3)),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", KNOWN)
def test_known_operations(name: str, batch: int) -> None:
    assert_equal(Apply(KNOWN[name]), (4, 4, 4), batch)


POOLS: dict[str, dict[str, object]] = {
    "kernel alone": {"kernel_size": 2},
    "of two sides": {"kernel_size": (3, 2)},
    "stride": {"kernel_size": 3, "stride": 2},
    "two strides": {"kernel_size": (2, 3), "stride": (1, 2)},
    "padding": {"kernel_size": 3, "stride": 1, "padding": 1},
    "padding not counted": {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False},
    "two paddings": {"kernel_size": (3, 5), "stride": 2, "padding": (1, 2)},
    "two paddings not counted": {"kernel_size": (5, 3), "stride": 2, "padding": (2, 1), "count_include_pad": False},
    "padded at one side alone": {"kernel_size": 3, "stride": 1, "padding": (0, 1), "count_include_pad": False},
    "does not fit": {"kernel_size": 2, "stride": 2},
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", POOLS)
def test_average_pools(name: str, batch: int) -> None:
    model = assert_equal(nn.AvgPool2d(**POOLS[name]), (3, 7, 9), batch)
    assert [node.op_type for node in model.graph.node] == ["AveragePool"]
    assert_equal(Apply(lambda m, x: F.avg_pool2d(x, **POOLS[name])), (4, 7, 9), batch)


def test_whole_maps_are_pooled_by_the_kernel_for_them() -> None:
    found = {shape: assert_equal(nn.AvgPool2d(shape), (3, 4, 6)) for shape in ((4, 6), (4, 3))}
    kernels = {shape: [node.op_type for node in model.graph.node] for shape, model in found.items()}
    assert kernels == {(4, 6): ["GlobalAveragePool"], (4, 3): ["AveragePool"]}


def test_norms_that_follow_no_convolution_are_nodes_of_their_own() -> None:
    counts = {"norm without convolution": 1, "norm after activation": 1, "two norms": 0, "norm and without": 1}
    for name, expected in counts.items():
        model = assert_equal(Apply(KNOWN[name]), (4, 4, 4))
        assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == expected


def test_convolution_with_everything() -> None:
    assert_equal(nn.Conv2d(4, 8, (3, 5), (1, 2), (0, 3), (2, 1), 2), (4, 9, 8))


@pytest.mark.parametrize("batch", [1, 3])
def test_disagreement_is_relative_to_the_largest_output(batch: int) -> None:
    module = nn.Conv2d(3, 4, 1, bias=False)
    model = to_onnx(module, (3, 5, 5), batch)
    assert disagreement(model, module, (3, 5, 5), batch) < 1e-6
    with torch.no_grad():
        module.weight.mul_(2)
    assert disagreement(model, module, (3, 5, 5), batch) == pytest.approx(0.5, abs=1e-5)
