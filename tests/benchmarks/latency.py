"""How well latency tables predict whole networks, beside simpler ways, on the same networks in the same run.

Run: .venv/bin/python -P tests/benchmarks/latency.py [--input 3x32x32] [--builds 3] [--networks 40]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from latency.build import build_table, network_models
from latency.device import Device
from latency.measure import Measured, Protocol, measure
from latency.table import LatencyTable, Quality
from nas.config import parse_shape
from search_spaces.architecture import Architecture
from search_spaces.fbnet import FBNetSpace
from search_spaces.operators import Identity
from search_spaces.space import SearchSpace, sample, sample_spread


def unseen(space: SearchSpace, table: LatencyTable, count: int, spread: bool) -> list[Architecture]:
    """Draw networks that the table was neither calibrated nor checked with."""
    rng = np.random.default_rng(12345)
    known = {row.architecture for row in (*table.calibration, *table.held_out)}
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


def show(name: str, quality: Quality) -> None:
    """Print a row."""
    print(
        f"  {name:44} {quality.mape_percent:6.1f} %  {quality.within_5_percent:4.0f} / {quality.within_10_percent:3.0f}"
        f"   {quality.spearman:6.3f} / {quality.kendall:.3f}",
        flush=True,
    )


def compare(space: SearchSpace, table: LatencyTable, networks: list[Architecture], seed: int) -> list[Quality]:
    """Measure ``networks`` and print how each way predicts them; return the table's quality, raw and scaled."""
    samples = measure(Device.parse("cpu"), network_models(space, networks), Protocol(20, 3, seed + 1))
    measured = [Measured.of(samples["cold_ms"][a.text]).ms for a in networks]
    bodies = [[b for b in space.blocks(a) if not isinstance(b, Identity)] for a in networks]
    predicted = [table.predict_ms(body) for body in bodies]
    scale = float(np.median(np.array(measured) / np.array(predicted)))
    raw = Quality.of(predicted, measured)
    scaled = Quality.of([scale * p for p in predicted], measured)
    show("table", raw)
    show(f"table, one common scale removed ({scale:.3f})", scaled)
    show("sum of blocks alone, steady state", Quality.of([table_sum(table, body) for body in bodies], measured))
    calibration = [(float(space.macs(space.parse(r.architecture))), r.measured_ms) for r in table.calibration]
    macs = [float(space.macs(a)) for a in networks]
    show("MACs, line through the calibration networks", fitted(macs, measured, calibration))
    first = [float(samples["cold_wall_ms"][a.text][0]) for a in networks]
    show("one cold run of each network, wall time", Quality.of(first, measured))
    return [raw, scaled]


def table_sum(table: LatencyTable, body: list) -> float:
    """Return the sum of the blocks' steady-state latencies (ms)."""
    return sum(table.blocks[b.key].steady_ms for b in body)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", default="3x32x32")
    parser.add_argument("--macro")
    parser.add_argument("--builds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=40)
    options = parser.parse_args()
    shape = parse_shape(options.input)
    space = FBNetSpace(shape, 1000 if max(shape[1:]) > 64 else 10, options.macro)
    found: dict[str, list[list[Quality]]] = {"uniform": [], "spread": []}
    for seed in range(options.builds):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            table = build_table(space, Device.parse("cpu"), Path(folder, "table.json"), Protocol(seed=seed))
            seconds = time.perf_counter() - start
        print(f"{space.name} at {options.input}: {len(table.blocks)} blocks in {seconds:.1f} s; {table.quality.text()}")
        for kind, rows in found.items():
            networks = unseen(space, table, options.networks, kind == "spread")
            print(f" {len(networks)} {kind} networks: MAPE, within 5 / 10 %, Spearman / Kendall")
            rows.append(compare(space, table, networks, seed))
    print(f"median of {options.builds} builds")
    for kind, rows in found.items():
        for name, column in (("raw", 0), ("scaled", 1)):
            mape, near, tau = (
                np.median([getattr(row[column], key) for row in rows])
                for key in ("mape_percent", "within_5_percent", "kendall")
            )
            print(f"  {kind:8} {name:7} MAPE {mape:.2f} %, within 5 %: {near:.0f} %, Kendall {tau:.3f}")


if __name__ == "__main__":
    main()
