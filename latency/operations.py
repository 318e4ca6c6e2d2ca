"""The ONNX form of torch functions: what a recorder writes down for each call."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latency.recorder import Recorder, UnsupportedOperation


def _conv2d(
    r: Recorder, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> str:  # fmt: skip
    if isinstance(padding, str) or r.traced(weight) or r.traced(bias):
        raise UnsupportedOperation("conv2d with padding by name or with weights that depend on the input")
    kernel = list(weight.shape[2:])
    pair = [list(v) if isinstance(v, tuple | list) else [v, v] for v in (stride, padding, dilation)]
    bias_value = np.zeros(weight.shape[0], np.float32) if bias is None else bias.detach().numpy()
    inputs = [r.name(x), r.constant(weight.detach().numpy()), r.constant(bias_value)]
    return r.node(
        "Conv",
        inputs,
        kernel_shape=kernel,
        strides=pair[0],
        pads=pair[1] * 2,
        dilations=pair[2],
        group=groups,
    )


def _conv_transpose2d(
    r: Recorder, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
    padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> str:  # fmt: skip
    if r.traced(weight) or r.traced(bias):
        raise UnsupportedOperation("conv_transpose2d with weights that depend on the input")
    strides, pads, beyond, dilations = (
        list(v) if isinstance(v, tuple | list) else [v, v] for v in (stride, padding, output_padding, dilation)
    )
    inputs = [r.name(x), r.constant(weight.detach().numpy())]
    inputs += [] if bias is None else [r.constant(bias.detach().numpy())]
    return r.node(
        "ConvTranspose", inputs, kernel_shape=list(weight.shape[2:]), strides=strides, pads=pads * 2,
        output_padding=beyond, dilations=dilations, group=groups,
    )  # fmt: skip


def _batch_norm(
    r: Recorder, out: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> str:  # fmt: skip
    if training:
        raise UnsupportedOperation("batch_norm in training mode")
    if weight is None or bias is None:
        raise UnsupportedOperation("batch_norm without affine terms")
    terms = [r.constant(term.detach().numpy()) for term in (weight, bias, mean, var)]
    return r.node("BatchNormalization", [r.name(x), *terms], epsilon=eps)


def _layer_norm(
    r: Recorder, out: Tensor, x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> str:  # fmt: skip
    if weight is None or bias is None:
        raise UnsupportedOperation("layer_norm without affine terms")
    return r.node("LayerNormalization", [r.name(x), r.name(weight), r.name(bias)], axis=-len(shape), epsilon=eps)


def _group_norm(
    r: Recorder, out: Tensor, x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> str:  # fmt: skip
    if weight is None or bias is None:
        raise UnsupportedOperation("group_norm without affine terms")
    # ONNX's own operator has one scale per group before opset 21: groups are normalised as instances instead.
    grouped = r.node("Reshape", [r.name(x), r.constant(np.array([x.shape[0], num_groups, -1], np.int64))])
    terms = [r.constant(np.full(num_groups, value, np.float32)) for value in (1, 0)]
    normed = r.node("InstanceNormalization", [grouped, *terms], epsilon=eps)
    whole = r.node("Reshape", [normed, r.constant(np.array(x.shape, np.int64))])
    each = (-1, *[1] * (x.dim() - 2))
    scaled = r.node("Mul", [whole, r.constant(weight.detach().numpy().reshape(each))])
    return r.node("Add", [scaled, r.constant(bias.detach().numpy().reshape(each))])


def _normalize(
    r: Recorder, result: Tensor, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> str:
    if p != 2:
        raise UnsupportedOperation("normalize by anything but the length")
    return r.node("LpNormalization", [r.name(x)], axis=dim, p=2)


def _linear(r: Recorder, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> str:
    if x.dim() == 2:
        inputs = [r.name(x), r.name(weight), *([] if bias is None else [r.name(bias)])]
        return r.node("Gemm", inputs, transB=1)
    if r.traced(weight):
        raise UnsupportedOperation("linear with weights that depend on the input")
    product = r.node("MatMul", [r.name(x), r.constant(weight.detach().numpy().T)])
    return product if bias is None else r.node("Add", [product, r.name(bias)])


def _matmul(r: Recorder, out: Tensor, x: Tensor, other: Tensor) -> str:
    return r.node("MatMul", [r.name(x), r.name(other)])


def _avg_pool2d(
    r: Recorder, out: Tensor, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> str:  # fmt: skip
    if ceil_mode or divisor_override is not None:
        raise UnsupportedOperation("avg_pool2d with ceil_mode or a divisor of its own")
    kernel, stride, padding = (
        list(v) if isinstance(v, tuple | list) else [v, v] for v in (kernel_size, stride or kernel_size, padding)
    )
    # Engines have a fast kernel for whole feature maps; that for windows is fast for some numbers of channels only.
    if kernel == list(x.shape[-2:]) and padding == [0, 0]:
        return r.node("GlobalAveragePool", [r.name(x)])
    return r.node(
        "AveragePool",
        [r.name(x)],
        kernel_shape=kernel,
        strides=stride,
        pads=padding * 2,
        count_include_pad=int(count_include_pad),
    )


def _max_pool2d(
    r: Recorder, out: Tensor, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> str:  # fmt: skip
    if ceil_mode or return_indices:
        raise UnsupportedOperation("max_pool2d with ceil_mode or indices")
    kernel, stride, padding, dilation = (
        list(v) if isinstance(v, tuple | list) else [v, v]
        for v in (kernel_size, stride or kernel_size, padding, dilation)
    )
    return r.node("MaxPool", [r.name(x)], kernel_shape=kernel, strides=stride, pads=padding * 2, dilations=dilation)


def _softmax(r: Recorder, out: Tensor, x: Tensor, dim: int | None = None, *_: Any, **__: Any) -> str:
    return r.node("Softmax", [r.name(x)], axis=dim)


def _mul(r: Recorder, out: Tensor, x: Tensor, other: Any) -> str:
    if isinstance(other, Tensor):
        return r.node("Mul", [r.name(x), r.name(other)])
    return r.node("Mul", [r.name(x), r.constant(np.array(other, np.float32))])


def _add(r: Recorder, out: Tensor, x: Tensor, other: Any, alpha: float = 1) -> str:
    if alpha != 1 or not isinstance(other, Tensor):
        raise UnsupportedOperation("add of anything but two tensors")
    return r.node("Add", [r.name(x), r.name(other)])


def _transpose(r: Recorder, out: Tensor, x: Tensor, dim0: int, dim1: int) -> str:
    order = list(range(x.dim()))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return r.node("Transpose", [r.name(x)], perm=order)


def _permute(r: Recorder, out: Tensor, x: Tensor, *axes: Any) -> str:
    order = axes[0] if isinstance(axes[0], tuple | list) else axes
    return r.node("Transpose", [r.name(x)], perm=[axis % x.dim() for axis in order])


def _cat(r: Recorder, out: Tensor, tensors: Any, dim: int = 0) -> str:
    return r.node("Concat", [r.name(tensor) for tensor in tensors], axis=dim % out.dim())


def _pad(r: Recorder, out: Tensor, x: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> str:
    if mode != "constant" or value:
        raise UnsupportedOperation("pad with anything but zeros")
    sides = [0] * (2 * x.dim() - len(pad)) + [pad[i] for i in range(len(pad))][::-1]  # (end, begin) per axis
    return r.node("Pad", [r.name(x), r.constant(np.array(sides[1::2] + sides[::2], np.int64))])


def _narrow(r: Recorder, out: Tensor, x: Tensor, dim: int, start: int, length: int) -> str:
    return _sliced(r, x, [(dim, start, start + length, 1)])


def _getitem(r: Recorder, out: Tensor, x: Tensor, index: Any) -> str:
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(part, slice) for part in index):
        raise UnsupportedOperation("an index that is no slice")
    bounds = [(axis, *part.indices(x.shape[axis])) for axis, part in enumerate(index) if part != slice(None)]
    return _sliced(r, x, bounds)


def _sliced(r: Recorder, x: Tensor, bounds: list[tuple[int, int, int, int]]) -> str:
    """Take a part along axes, given by (axis, start, end, step) each."""
    if not bounds:
        return r.name(x)
    axes, starts, ends, steps = (r.constant(np.array(values, np.int64)) for values in zip(*bounds, strict=True))
    return r.node("Slice", [r.name(x), starts, ends, axes, steps])


def _reshape(r: Recorder, out: Tensor, x: Tensor, *_: Any, **__: Any) -> str:
    return r.node("Reshape", [r.name(x), r.constant(np.array(out.shape, np.int64))])


def _interpolate(
    r: Recorder, out: Tensor, x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> str:  # fmt: skip
    if size is None or x.dim() != 4 or mode != "bilinear" or align_corners or antialias:
        raise UnsupportedOperation("interpolate of anything but images, bilinearly and to a given size")
    inputs = [r.name(x), "", "", r.constant(np.array(out.shape, np.int64))]
    return r.node("Resize", inputs, mode="linear", coordinate_transformation_mode="half_pixel")


HANDLERS: dict[Any, Callable[..., str]] = {
    torch.conv2d: _conv2d,
    F.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.leaky_relu: lambda r, out, x, negative_slope=0.01, inplace=False: r.node(
        "LeakyRelu", [r.name(x)], alpha=negative_slope
    ),
    F.relu: lambda r, out, x, inplace=False: r.node("Relu", [r.name(x)]),
    F.hardswish: lambda r, out, x, inplace=False: r.node("HardSwish", [r.name(x)]),
    F.hardsigmoid: lambda r, out, x, inplace=False: r.node("HardSigmoid", [r.name(x)], alpha=1 / 6, beta=0.5),
    F.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.gelu: lambda r, out, x, approximate="none": r.node("Gelu", [r.name(x)], approximate=approximate),
    F.group_norm: _group_norm,
    F.normalize: _normalize,
    F.conv_transpose2d: _conv_transpose2d,
    torch.max_pool2d: _max_pool2d,
    F.max_pool2d: _max_pool2d,
    torch.sigmoid: lambda r, out, x: r.node("Sigmoid", [r.name(x)]),
    F.linear: _linear,
    F.pad: _pad,
    torch.cat: _cat,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    Tensor.permute: _permute,
    Tensor.narrow: _narrow,
    Tensor.__getitem__: _getitem,
    F.avg_pool2d: _avg_pool2d,
    F.interpolate: _interpolate,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.mul: _mul,
    Tensor.__mul__: _mul,
    Tensor.view: _reshape,
    Tensor.reshape: _reshape,
    Tensor.flatten: _reshape,
    Tensor.transpose: _transpose,
}
"""What writes down a call of a function, by the function."""
