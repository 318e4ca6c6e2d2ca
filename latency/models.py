"""ONNX files to be measured: blocks alone, whole networks, and the probes that a table needs."""

import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import nn

from latency.device import Device
from latency.emit import disagreement, explained, to_onnx
from latency.quantize import NotQuantizable, quantize
from search_spaces.architecture import Architecture
from search_spaces.block import Block, Network, Shape, shape_text
from search_spaces.even import nearest_to_even_steps
from search_spaces.operators import ConvNormReLU
from search_spaces.space import SearchSpace, sample_spread

# ONNX Runtime and PyTorch order float32 sums differently.
TOLERANCE = 1e-4
PROBED_SHAPES = 3
PROBE_DEPTHS = (1, 3)
# Where there is no end of blocks: random networks whose blocks are measured, and how many of each kind.
DRAWN, PER_KIND = 300, 60
_PLAIN_OPERATORS = {"MatMul", "LayerNormalization", "InstanceNormalization"}
# Devices on different machines are measured side by side; torch has one random state for all threads.
_RANDOM = threading.Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let weights come out the same in every call: an interrupted job is known again by its files."""
    with _RANDOM, torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        yield


class BlockModel(NamedTuple):
    """A block's ONNX file, and whether its first and last kernels work on plain NCHW."""

    content: bytes
    plain_start: bool
    plain_end: bool


def _emitted(module: nn.Module, shape: Shape, device: Device, what: str) -> bytes:
    model = to_onnx(module, shape, device.batch)
    difference = disagreement(model, module, shape, device.batch)
    if not difference <= TOLERANCE and not difference <= explained(module, torch.randn(device.batch, *shape)):
        raise RuntimeError(f"ONNX Runtime and PyTorch differ by {difference:.1e} on {what}")
    return model


def _in_precision(model: bytes, shape: Shape, device: Device) -> bytes:
    if device.precision != "int8":
        return model
    rng = np.random.default_rng(0)
    return quantize(model, [rng.standard_normal((device.batch, *shape)).astype(np.float32)])


def device_model(module: nn.Module, shape: Shape, device: Device, what: str) -> bytes:
    """Return ``module`` for inputs ``shape`` (C, H, W) as the device runs it: its batch, its precision.

    Raises:
        RuntimeError: the file does not compute what PyTorch computes; ``what`` names it.
        NotQuantizable: the device computes in int8, which an operator has no form for.
    """
    return _in_precision(_emitted(module, shape, device, what), shape, device)


def _block_in_precision(model: bytes, block: Block, device: Device) -> bytes:
    try:
        return _in_precision(model, block.in_shape, device)
    except NotQuantizable as error:
        raise NotQuantizable(
            f"{device.name} cannot run every block in {device.precision}: {block.key}: {error}"
        ) from None


def block_models(blocks: Iterable[Block], device: Device) -> dict[str, BlockModel]:
    """Return the ONNX file of each block by its key; blocks that run nothing have none.

    Raises:
        NotQuantizable: the device computes in int8, which a block has no form for; it is named.
    """
    models = {}
    for block in blocks:
        if not block.free and block.key not in models:
            model = _emitted(block.build(), block.in_shape, device, block.key)
            models[block.key] = BlockModel(_block_in_precision(model, block, device), *plain_ends(model))
    return models


def network_models(space: SearchSpace, networks: Iterable[Architecture], device: Device) -> dict[str, bytes]:
    """Return the ONNX file of each architecture (random weights) by its text."""
    return {a.text: device_model(_varied(space.build(a)), space.input_shape, device, a.text) for a in networks}


def _varied(network: nn.Module) -> nn.Module:
    """Return a network with numbers set apart that are all alike until it is trained, as norms are.

    An engine computes branches once that are alike; after training there are none.
    """
    with torch.no_grad():
        for values in (*network.parameters(), *network.buffers()):
            if values.is_floating_point() and values.min() == values.max():
                values.add_(0.1 * torch.rand_like(values))
    return network


def session_model(device: Device) -> bytes:
    """Return the model that does next to nothing: its cold call is what any session costs."""
    return to_onnx(nn.ReLU(), (1, 1, 1), device.batch)


def probed_shapes(space: SearchSpace) -> list[Shape]:
    """Return the largest shapes (C, H, W) between blocks: there a border costs most.

    None where there is no end of blocks: few of their kernels work on blocks of channels.
    """
    if space.endless:
        return []
    shapes = {b.in_shape for b in space.distinct_blocks() if not b.free and b.in_shape != space.input_shape}
    return sorted(shapes, key=lambda shape: (-np.prod(shape), shape))[:PROBED_SHAPES]


def border_probes(shapes: Sequence[Shape], device: Device) -> dict[str, bytes]:
    """Return chains of pointwise convolutions at each shape: deeper ones differ by convolutions, not by borders."""
    probes = {}
    for shape in shapes:
        for depth in PROBE_DEPTHS:
            chain = Network(ConvNormReLU(shape, shape[0], kernel=1, stride=1).build() for _ in range(depth))
            probes[probe_name(shape, depth)] = device_model(chain, shape, device, "a probe")
    return probes


def probe_name(shape: Shape, depth: int) -> str:
    """Return the name of a probe among the models of a job."""
    return f"probe {depth} {shape_text(shape)}"


def plain_ends(model: bytes) -> tuple[bool, bool]:
    """Tell whether the first and the last kernels of a float model work on plain NCHW.

    Engines run dense and depthwise convolutions on blocks of channels, grouped ones and matrix products on NCHW.
    """
    graph = onnx.load_from_string(model).graph
    sizes = {tensor.name: tensor.dims for tensor in graph.initializer}
    plain = []
    for node in graph.node:
        if node.op_type in _PLAIN_OPERATORS:
            plain.append(True)
        elif node.op_type == "Conv":
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            plain.append(1 < groups < sizes[node.input[1]][0])
    return (plain[0], plain[-1]) if plain else (False, False)


def measured_blocks(space: SearchSpace, networks: Sequence[Architecture], seed: int) -> list[Block]:
    """Return the blocks that a table of ``space`` measures, each once: all of them, with those of ``networks``.

    Where there is no end of them: those of known networks, and of each kind ``PER_KIND`` of random networks,
    spread evenly over log size. Those of ``networks`` alone are not among them, so that predictions for these tell
    how well others are predicted.
    """
    if not space.endless:
        return [*space.distinct_blocks(), *(block for network in networks for block in space.blocks(network))]
    others = spread_networks(space, DRAWN, seed + 2)  # a check of the table draws with seed + 1
    by_kind: dict[str, dict[str, Block]] = defaultdict(dict)
    for block in (block for network in others for block in space.blocks(network) if not block.free):
        by_kind[block.kind][block.key] = block
    chosen = [block for found in by_kind.values() for block in _spread(list(found.values()))]
    return list({block.key: block for block in (*space.distinct_blocks(), *chosen)}.values())


def _spread(blocks: list[Block]) -> list[Block]:
    """Return ``PER_KIND`` of the blocks, or all if they are fewer: those nearest to even steps of log size."""
    sizes = [math.log(block.moved + block.params) for block in blocks]
    return [blocks[i] for i in nearest_to_even_steps(sizes, PER_KIND)]


def spread_networks(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """Draw ``count`` different architectures from all over the space."""
    rng = np.random.default_rng(seed)
    found: dict[str, Architecture] = {}
    for _ in range(100 * count):
        architecture = sample_spread(space, rng)
        found.setdefault(architecture.id, architecture)
        if len(found) == count:
            break
    return list(found.values())
