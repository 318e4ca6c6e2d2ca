"""Building, extending, checking and recalibrating latency tables."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from latency.calibrate import Calibration, cross_predicted
from latency.device import Device
from latency.host import fingerprint
from latency.measure import Measured, Noise, Progress, Protocol, Samples, estimates, forget, latency_of, measure
from latency.models import (
    PROBE_DEPTHS,
    BlockModel,
    block_models,
    border_probes,
    measured_blocks,
    network_models,
    probe_name,
    probed_shapes,
    seeded,
    session_model,
    spread_networks,
)
from latency.table import BlockLatency, LatencyTable, NetworkLatency, Prediction, Quality, Session
from latency.unmeasured import Facts, left_out_predictions
from search_spaces.architecture import Architecture
from search_spaces.block import Block, Shape
from search_spaces.space import SearchSpace

# Each calibrates the table for all the others, so that every one is a check as well.
NETWORKS = 16
# Where there is no end of blocks, more are needed: kinds of blocks are calibrated apart, and blocks are predicted.
VARIED_NETWORKS = 320
# What is measured beside other networks to tell how the device has changed.
ANCHORS = 10
FRESH_NETWORKS = 12
LARGEST_DRIFT = 0.03
_SESSION = "empty session"
_QUIET: Progress = lambda done, total: None  # noqa: E731


def build_table(
    space: SearchSpace, device: Device, path: Path, protocol: Protocol = Protocol(), progress: Progress = _QUIET
) -> LatencyTable:
    """Measure every distinct block of ``space`` on ``device``, calibrate, check, and write the table to ``path``.

    Where a space has no end of blocks, those of its known networks and of random ones are measured; the table predicts
    others from them, those of the networks that calibrate it as well.

    Blocks and networks are timed in one interleaved session, so that a slow minute of the host touches all alike.
    Interrupted, the same call goes on with the next round.

    Raises:
        InputError: the device cannot be reached, or lacks what it needs.
        MeasuringFailed: the measuring program died.
    """
    networks = spread_networks(space, VARIED_NETWORKS if space.endless else NETWORKS, protocol.seed)
    chosen = measured_blocks(space, networks, protocol.seed)
    shapes = probed_shapes(space)
    with seeded(protocol.seed):
        blocks = block_models(chosen, device)
        beside = {**border_probes(shapes, device), **network_models(space, networks, device)}
        empty = session_model(device)
    models = {**{key: block.content for key, block in blocks.items()}, **beside, _SESSION: empty}
    journal = _journal(path)
    samples = measure(device, models, protocol, journal, progress, cold_only=beside)
    cold = _estimated(samples[device.quantity])
    table = LatencyTable(
        device=device.name,
        quantity=device.quantity,
        fingerprint=fingerprint(device),
        protocol=protocol.record(),
        space=space.name,
        input_shape=space.input_shape,
        classes=space.classes,
        session_ms=cold[_SESSION],
        session_steady_ms=latency_of(samples, device.quantity, _SESSION)[1],
        border_ms_per_mib=_border_ms_per_mib(cold, shapes, device.batch),
        blocks=_entries(blocks, samples, device, chosen if space.endless else ()),
        calibration=Calibration(slope=1, offset_ms=0, block_ms=0, switch_share=0),
        networks=tuple(NetworkLatency(architecture=a.text, predicted_ms=0, measured_ms=cold[a.text]) for a in networks),
        quality=Quality.none(),
        session=_session(samples, list(blocks), networks[0].text, device, protocol),
    )
    table = _calibrated(table, space)
    table.save(path)
    forget(journal)
    return table


def _journal(path: Path) -> Path:
    """Return where finished rounds are kept until the table at ``path`` is written."""
    return path.with_name(f"{path.name}.partial.jsonl")


def _estimated(samples: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(estimates(values)) for name, values in samples.items()}


def _border_ms_per_mib(cold: Mapping[str, float], shapes: Sequence[Shape], batch: int) -> float:
    """Return what a block alone pays for each MiB that enters or leaves it, in ms."""
    first, last = PROBE_DEPTHS
    borders = 0.0
    for shape in shapes:
        least, most = (cold[probe_name(shape, depth)] for depth in PROBE_DEPTHS)
        borders += least - (most - least) / (last - first) - cold[_SESSION]
    mib = sum(4 * batch * c * h * w for c, h, w in shapes) / 2**20
    return max(0.0, borders / mib) if mib else 0.0


def _entries(
    blocks: Mapping[str, BlockModel], samples: Samples, device: Device, predicting: Iterable[Block]
) -> dict[str, BlockLatency]:
    """Return the rows of a table; those of ``predicting`` serve to predict other blocks."""
    facts = {block.key: Facts.of(block) for block in predicting}
    entries = {}
    for key, block in blocks.items():
        cold, steady_ms = latency_of(samples, device.quantity, key)
        entries[key] = BlockLatency(
            cold_ms=cold.ms, cold_ms_low=cold.low, cold_ms_high=cold.high, steady_ms=steady_ms,
            plain_start=block.plain_start, plain_end=block.plain_end, facts=facts.get(key),
        )  # fmt: skip
    return entries


def _session(samples: Samples, keys: Sequence[str], anchor: str, device: Device, protocol: Protocol) -> Session:
    values = samples[device.quantity]
    half = len(values[anchor]) // 2
    ratios = np.array([estimates(values[key][:half]) / estimates(values[key][half:]) for key in keys])
    noise = Noise.of(samples, device.quantity)
    return Session(
        rounds=noise.rounds,
        entries_within_3_percent=100 * float((np.abs(ratios / np.median(ratios) - 1) <= 0.03).mean()),
        anchor_drift_percent=100 * float(estimates(values[anchor][half:]) / estimates(values[anchor][:half]) - 1),
        interval_percent=noise.interval_percent,
        held_up_percent=noise.held_up_percent,
        noisy=noise.noisy(protocol),
    )


def _calibrated(table: LatencyTable, space: SearchSpace) -> LatencyTable:
    """Return the table with a calibration on its networks, each predicted by a calibration on the others."""
    bodies = [space.blocks(space.parse(row.architecture)) for row in table.networks]
    features = [table.features(body) for body in bodies]
    measured = [row.measured_ms for row in table.networks]
    predicted = cross_predicted(features, measured)
    rows = [row.model_copy(update={"predicted_ms": float(p)}) for row, p in zip(table.networks, predicted, strict=True)]
    update = {
        "calibration": Calibration.fit(features, measured),
        "networks": tuple(rows),
        "quality": Quality.of(list(predicted), measured),
        "prediction": _prediction(table, bodies) if space.endless else None,
    }
    return table.model_copy(update=update)


def _prediction(table: LatencyTable, bodies: Sequence[Sequence[Block]]) -> Prediction:
    """Return how many blocks of networks are predicted, and how well those that were measured are."""
    running = [block for body in bodies for block in body if not block.free]
    measured = [ms for _, ms in table.rows]
    found = Quality.of(left_out_predictions(table.rows, table.scale * table.session_steady_ms).tolist(), measured)
    return Prediction(
        predicted_percent=100 * sum(block.key not in table.blocks for block in running) / len(running),
        blocks=found.networks,
        mape_percent=found.mape_percent,
        spearman=found.spearman,
        kendall=found.kendall,
    )


def _network_rounds(
    device: Device, models: Mapping[str, bytes], protocol: Protocol, journal: Path | None, progress: Progress
) -> dict[str, float]:
    samples = measure(device, models, protocol, journal, progress, cold_only=models)
    return _estimated(samples[device.quantity])


def extend_table(
    table: LatencyTable,
    space: SearchSpace,
    device: Device,
    path: Path,
    blocks: Iterable[Block],
    protocol: Protocol = Protocol(),
    progress: Progress = _QUIET,
) -> LatencyTable:
    """Add the ``blocks`` that ``table`` lacks and write it to ``path``; what it has stays as it is.

    The table's anchors are measured beside them; how these have changed is the ``scale`` of the new rows.
    """
    missing = table.missing(blocks)
    if not missing:
        return table
    with seeded(protocol.seed):
        new = block_models(missing, device)
    anchors = anchor_models(table, space, device)
    models = {**{key: block.content for key, block in new.items()}, **anchors}
    journal = _journal(path)
    samples = measure(device, models, protocol, journal, progress, cold_only=anchors)
    change = drift(table, {name: Measured.of(samples[device.quantity][name]) for name in anchors})
    measured = _entries(new, samples, device, missing if space.endless else ())
    entries = {key: entry.model_copy(update={"scale": 1 / change}) for key, entry in measured.items()}
    extended = table.model_copy(update={"blocks": {**table.blocks, **entries}})
    if space.endless:  # other blocks are now predicted from these as well
        extended = _calibrated(extended, space)
    extended.save(path)
    forget(journal)
    return extended


def check_table(
    table: LatencyTable,
    space: SearchSpace,
    device: Device,
    protocol: Protocol = Protocol(),
    progress: Progress = _QUIET,
) -> tuple[Quality, float]:
    """Measure fresh networks against an existing table.

    Returns:
        The quality on them with the drift taken out, and the drift: the median of measured over predicted latency.
    """
    known = {row.architecture for row in table.networks}
    # Where blocks are predicted, a few networks err too much to tell drift: the table's own do.
    anchors = anchor_models(table, space, device) if space.endless else {}
    drawn = spread_networks(space, len(known) + 2 * FRESH_NETWORKS, protocol.seed + 1)
    networks = sorted(drawn, key=lambda a: a.text in known)[:FRESH_NETWORKS]  # a small space may have too few others
    with seeded(protocol.seed):
        models = network_models(space, networks, device)
    found = _network_rounds(device, {**models, **anchors}, protocol, None, progress)
    predicted = np.array([table.predict_ms(space.blocks(a)) for a in networks])
    measured = np.array([found[a.text] for a in networks])
    change = _change(table.networks[:ANCHORS], found) if anchors else float(np.median(measured / predicted))
    return Quality.of(list(change * predicted), list(measured)), change


def recalibrate_table(
    table: LatencyTable,
    space: SearchSpace,
    device: Device,
    path: Path,
    protocol: Protocol = Protocol(),
    progress: Progress = _QUIET,
) -> LatencyTable:
    """Measure the table's networks again and make it a table of now; blocks are not measured anew.

    Every row keeps what was measured, beside the ``scale`` by which the networks have changed since.
    """
    with seeded(protocol.seed):
        models = network_models(space, _networks(table, space), device)
    journal = _journal(path)
    found = _network_rounds(device, models, protocol, journal, progress)
    change = _change(table.networks, found)
    rows = tuple(row.model_copy(update={"measured_ms": found[row.architecture]}) for row in table.networks)
    renewed = _calibrated(_scaled(table, change).model_copy(update={"networks": rows}), space)
    renewed.save(path)
    forget(journal)
    return renewed


def _scaled(table: LatencyTable, factor: float) -> LatencyTable:
    blocks = {key: entry.model_copy(update={"scale": factor * entry.scale}) for key, entry in table.blocks.items()}
    return table.model_copy(update={"blocks": blocks, "scale": factor * table.scale})


def _networks(table: LatencyTable, space: SearchSpace) -> list[Architecture]:
    return [space.parse(row.architecture) for row in table.networks]


def anchor_models(table: LatencyTable, space: SearchSpace, device: Device) -> dict[str, bytes]:
    """Return some of the table's networks as ONNX files by their text, to be measured beside other networks."""
    with seeded(int(table.protocol["seed"])):  # the same files in every call
        return network_models(space, _networks(table, space)[:ANCHORS], device)


def drift(table: LatencyTable, now: Mapping[str, Measured]) -> float:
    """Return how the device's latency has changed since the table was measured: 1 is not at all, 1.1 is 10 % slower.

    The median over the table's anchors, which ``now`` must hold by their text. A shared machine changes by tens of
    percent from minute to minute, for all networks alike.
    """
    return _change(table.networks[:ANCHORS], {name: measured.ms for name, measured in now.items()})


def _change(rows: Iterable[NetworkLatency], now_ms: Mapping[str, float]) -> float:
    """Return the median of what networks take now (ms) over what they took."""
    return float(np.median([now_ms[row.architecture] / row.measured_ms for row in rows]))
