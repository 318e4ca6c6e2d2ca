"""Building and checking latency tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from latency.device import Device
from latency.emit import disagreement, to_onnx
from latency.measure import Measured, Progress, Protocol, forget, measure
from latency.table import BlockLatency, LatencyTable, NetworkLatency, Quality
from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.operators import Identity
from search_spaces.space import SearchSpace, sample_spread

# Ten calibration networks bring the error down to the noise of the measurement; as many and two more check it.
CALIBRATION_NETWORKS = 10
HELD_OUT_NETWORKS = 12
# ONNX Runtime and PyTorch order float32 sums differently.
TOLERANCE = 1e-4
_SESSION = "empty session"


def _checked(module: nn.Module, shape: tuple[int, int, int], what: str) -> bytes:
    model = to_onnx(module, shape)
    difference = disagreement(model, module, shape)
    if not difference <= TOLERANCE:
        raise RuntimeError(f"ONNX Runtime and PyTorch differ by {difference:.1e} on {what}")
    return model


def block_models(blocks: Sequence[Block]) -> dict[str, bytes]:
    """Return the ONNX file of each block by its key, compared with PyTorch; identities have none."""
    measurable = [block for block in blocks if not isinstance(block, Identity)]
    return {block.key: _checked(block.build(), block.in_shape, block.key) for block in measurable}


def network_models(space: SearchSpace, networks: Sequence[Architecture]) -> dict[str, bytes]:
    """Return the ONNX file of each architecture (random weights) by its text, compared with PyTorch."""
    return {a.text: _checked(space.build(a), space.input_shape, a.text) for a in networks}


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


def _calibrate(sums_ms: list[float], measured_ms: list[float]) -> tuple[float, float]:
    """Fit slope and offset by least squares of the relative error."""
    weights = 1 / np.array(measured_ms)
    slope, offset = np.polyfit(sums_ms, measured_ms, 1, w=weights)
    return float(slope), float(offset)


def build_table(
    space: SearchSpace,
    device: Device,
    path: Path,
    protocol: Protocol = Protocol(),
    progress: Progress = lambda done, total: None,
) -> LatencyTable:
    """Measure every distinct block of ``space`` on ``device``, calibrate, check, and write the table to ``path``.

    Blocks, calibration networks and held-out networks are timed in one interleaved session, so that a slow
    minute of the host touches all alike. Interrupted, the same call goes on with the next round.

    Raises:
        MeasuringFailed: the measuring program died.
    """
    networks = spread_networks(space, CALIBRATION_NETWORKS + HELD_OUT_NETWORKS, protocol.seed)
    with torch.random.fork_rng(devices=()):
        # The weights are part of the job that an interrupted call is resumed by: they must come out the same.
        torch.manual_seed(protocol.seed)
        blocks = block_models(space.distinct_blocks())
        models = {**blocks, **network_models(space, networks), _SESSION: to_onnx(nn.ReLU(), (1, 1, 1))}
    journal = path.with_name(f"{path.name}.partial.jsonl")
    samples = measure(device, models, protocol, journal, progress)
    cold = {name: Measured.of(values) for name, values in samples["cold_ms"].items()}
    entries = {
        key: BlockLatency(
            cold_ms=cold[key].ms, cold_ms_low=cold[key].low, cold_ms_high=cold[key].high,
            steady_ms=Measured.of(samples["steady_ms"][key]).ms,
        )
        for key in blocks
    }  # fmt: skip
    table = _calibrated(space, device, protocol, cold, entries, networks)
    table.save(path)
    forget(journal)
    return table


def _calibrated(
    space: SearchSpace, device: Device, protocol: Protocol, cold: dict[str, Measured],
    entries: dict[str, BlockLatency], networks: list[Architecture],
) -> LatencyTable:  # fmt: skip
    session_ms = cold[_SESSION].ms
    sums = [
        sum(entries[b.key].cold_ms - session_ms for b in space.blocks(a) if not isinstance(b, Identity))
        for a in networks
    ]
    measured = [cold[a.text].ms for a in networks]
    slope, offset = _calibrate(sums[:CALIBRATION_NETWORKS], measured[:CALIBRATION_NETWORKS])
    rows = [
        NetworkLatency(architecture=a.text, sum_ms=s, predicted_ms=offset + slope * s, measured_ms=m)
        for a, s, m in zip(networks, sums, measured, strict=True)
    ]
    held_out = rows[CALIBRATION_NETWORKS:]
    return LatencyTable(
        device=device.name,
        fingerprint=device.fingerprint(),
        protocol={"rounds": protocol.rounds, "calls": protocol.calls, "seed": protocol.seed},
        space=space.name,
        input_shape=space.input_shape,
        classes=space.classes,
        session_ms=session_ms,
        blocks=entries,
        slope=slope,
        offset_ms=offset,
        calibration=tuple(rows[:CALIBRATION_NETWORKS]),
        held_out=tuple(held_out),
        quality=Quality.of([r.predicted_ms for r in held_out], [r.measured_ms for r in held_out]),
    )


def check_table(
    table: LatencyTable,
    space: SearchSpace,
    device: Device,
    protocol: Protocol = Protocol(),
    progress: Progress = lambda done, total: None,
) -> tuple[Quality, float]:
    """Measure fresh networks against an existing table.

    Returns:
        The quality on them, and the drift: the median of measured over predicted latency (1 is none).
    """
    known = {row.architecture for row in (*table.calibration, *table.held_out)}
    drawn = spread_networks(space, 3 * HELD_OUT_NETWORKS, protocol.seed + 1)
    networks = [a for a in drawn if a.text not in known][:HELD_OUT_NETWORKS]
    samples = measure(device, network_models(space, networks), protocol, None, progress)["cold_ms"]
    predicted = [table.predict_ms(space.blocks(a)) for a in networks]
    measured = [Measured.of(samples[a.text]).ms for a in networks]
    return Quality.of(predicted, measured), float(np.median(np.array(measured) / np.array(predicted)))


def anchor_models(table: LatencyTable, space: SearchSpace) -> dict[str, bytes]:
    """Return the table's calibration networks as ONNX files by their text, to be measured beside other networks."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(table.protocol["seed"])  # the same files in every call
        return network_models(space, [space.parse(row.architecture) for row in table.calibration])


def drift(table: LatencyTable, now: Mapping[str, Measured]) -> float:
    """Return how the device's latency has changed since the table was built: 1 is not at all, 1.1 is 10 % slower.

    The median over the table's calibration networks, which ``now`` must hold by their text. A shared machine changes
    by tens of percent from minute to minute, for all networks alike.
    """
    return float(np.median([now[row.architecture].ms / row.measured_ms for row in table.calibration]))
