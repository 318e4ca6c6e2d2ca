"""How well latency tables predict whole networks, beside simpler ways, on the same networks in the same run.

Run: .venv/bin/python -P tests/benchmarks/latency.py [--space fbnet/cifar] [--input 3x32x32] [--device cpu] [--builds 3]
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

from latency.build import anchor_models, build_table, drift
from latency.device import Device
from latency.measure import Measured, Protocol, measure
from latency.models import network_models
from latency.table import LatencyTable, Quality
from nas.config import make_space, parse_shape
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace, sample, sample_spread

Rows = dict[str, list[Quality]]


def unseen(space: SearchSpace, table: LatencyTable, count: int, spread: bool) -> list[Architecture]:
    """Draw networks that the table was not calibrated with."""
    rng = np.random.default_rng(12345)
    known = {row.architecture for row in table.networks}
    found: dict[str, Architecture] = {}
    while len(found) < count:
        drawn = sample_spread(space, rng) if spread else sample(space, rng)
        if drawn.text not in known:
            found[drawn.text] = drawn
    return list(found.values())


def fitted(scores: list[float], measured: list[float], known: list[tuple[float, float]]) -> Quality:
    """Return the quality of a line through ``known`` (score, ms) applied to ``scores``."""
    slope, offset = np.polyfit([s for s, _ in known], [ms for _, ms in known], 1)
    return Quality.of([slope * s + offset for s in scores], measured)


def row(quality: Quality) -> str:
    """Return a quality as a row of the table."""
    return (
        f"{quality.mape_percent:6.1f} %  {quality.within_5_percent:4.0f} / {quality.within_10_percent:3.0f}"
        f"   {quality.spearman:6.3f} / {quality.kendall:.3f}"
    )


def compare(space: SearchSpace, table: LatencyTable, device: Device, networks: list[Architecture], rows: Rows) -> None:
    """Measure ``networks`` and add how each way predicts them to ``rows``."""
    models = {**network_models(space, networks, device), **anchor_models(table, space, device)}
    samples = measure(device, models, Protocol(seed=12345), cold_only=models)
    again = measure(device, models, Protocol(seed=54321), cold_only=models)
    found = {name: Measured.of(values) for name, values in samples[device.quantity].items()}
    measured = [found[a.text].ms for a in networks]
    bodies = [[b for b in space.blocks(a) if not b.free] for a in networks]
    predicted = [table.predict_ms(body) for body in bodies]
    change = drift(table, found)
    calibration = [(float(space.macs(space.parse(r.architecture))), r.measured_ms) for r in table.networks]
    macs = [float(space.macs(a)) for a in networks]
    ways = {
        "table": Quality.of(predicted, measured),
        "table, drift taken out by its anchors": Quality.of([change * p for p in predicted], measured),
        "sum of isolated hot medians": Quality.of([_hot_sum(table, body) for body in bodies], measured),
        "MACs, line through the table's networks": fitted(macs, measured, calibration),
        "one cold run of each network, wall time": Quality.of(
            [float(samples["cold_wall_ms"][a.text][0]) for a in networks], measured
        ),
        "the networks measured a second time": Quality.of(
            [Measured.of(again[device.quantity][a.text]).ms for a in networks], measured
        ),
    }
    for name, quality in ways.items():
        rows.setdefault(name, []).append(quality)


def _hot_sum(table: LatencyTable, body: list) -> float:
    return sum(table.blocks[b.key].steady_ms for b in body)


def repeated(first: LatencyTable, second: LatencyTable) -> float:
    """Return the share (%) of entries that agree within 3 % after one common scale."""
    ratios = np.array([first.blocks[key].cold_ms / second.blocks[key].cold_ms for key in first.blocks])
    return 100 * float((np.abs(ratios / np.median(ratios) - 1) <= 0.03).mean())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--input", default="3x32x32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--builds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=40)
    options = parser.parse_args()
    shape = parse_shape(options.input)
    space = make_space(options.space, shape, 1000 if max(shape[1:]) > 64 else 10)
    device = Device.parse(options.device)
    found: dict[str, Rows] = {"uniform": {}, "spread": {}}
    tables: list[LatencyTable] = []
    seconds = []
    for seed in range(options.builds):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            tables.append(build_table(space, device, Path(folder, "table.json"), Protocol(seed=seed)))
            seconds.append(time.perf_counter() - start)
        session = ", ".join(f"{k} {v}" for k, v in tables[-1].session.lines().items())
        print(
            f"{seconds[-1]:.1f} s, {len(tables[-1].blocks)} blocks; {tables[-1].quality.text()}; {session}", flush=True
        )
        for kind, rows in found.items():
            compare(space, tables[-1], device, unseen(space, tables[-1], options.networks, kind == "spread"), rows)
    print(f"{space.name} at {options.input} on {device.name}, median of {options.builds} builds")
    for kind, rows in found.items():
        print(f" {options.networks} {kind} networks: MAPE, within 5 / 10 %, Spearman / Kendall")
        for name, qualities in rows.items():
            keys = list(Quality.model_fields)
            medians = {key: np.median([getattr(quality, key) for quality in qualities]) for key in keys}
            print(f"  {name:40} {row(Quality.model_validate(medians))}")
    print(f" whole table: {np.median(seconds):.1f} s")
    for first, second in itertools.pairwise(tables):
        print(f" entries within 3 % of another build's, one common scale removed: {repeated(first, second):.0f} %")


if __name__ == "__main__":
    main()
