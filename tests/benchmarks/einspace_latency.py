"""How well a table of einspace predicts random networks, most of whose blocks it has not measured.

Run: .venv/bin/python -P tests/benchmarks/einspace_latency.py [--table einspace.json] [--networks 500] [--input 3x32x32]
Without --table one is built. Networks are drawn with the grammar's probabilities; the table knows none of them.
Its own are measured beside them, to take out how the device has changed. --rounds bounds the rounds of measuring.
With --extend the blocks of the networks are measured into a copy of the table, too: what is left is what the table
errs by for networks, not for blocks.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from latency.build import anchor_models, build_table, drift, extend_table
from latency.device import Device
from latency.measure import Measured, Protocol, estimates, measure
from latency.models import network_models
from latency.table import LatencyTable, Quality
from latency.unmeasured import left_out_predictions
from nas.config import parse_shape
from nas.search.executor import one_thread
from search_spaces.architecture import Architecture
from search_spaces.einspace.space import EinSpace
from search_spaces.space import sample

CLASSES = 10


def unseen(space: EinSpace, table: LatencyTable, count: int, seed: int) -> list[Architecture]:
    """Draw different networks that did not calibrate the table."""
    rng = np.random.default_rng([seed, 1])
    known = {row.architecture for row in table.networks}
    found: dict[str, Architecture] = {}
    while len(found) < count:
        drawn = sample(space, rng)
        if drawn.text not in known:
            found[drawn.text] = drawn
    return list(found.values())


def row(quality: Quality) -> str:
    """Return a quality as a row of the table."""
    errors = f"{quality.mape_percent:6.1f} %  {quality.kendall:.3f}  {quality.within_10_percent:3.0f} %"
    return f"{quality.spearman:.3f}  {errors}"


def blocks_by_kind(table: LatencyTable) -> dict[str, str]:
    """Return the error of left-out blocks by kind: mean, and number of rows."""
    predicted = left_out_predictions(table.rows, table.scale * table.session_steady_ms)
    errors: dict[str, list[float]] = defaultdict(list)
    for (facts, ms), found in zip(table.rows, predicted, strict=True):
        errors[facts.kind].append(abs(found / ms - 1))
    return {name: f"{100 * np.mean(values):.1f} % of {len(values)}" for name, values in sorted(errors.items())}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path)
    parser.add_argument("--networks", type=int, default=500)
    parser.add_argument("--input", default="3x32x32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=Protocol.most_rounds)
    parser.add_argument("--extend", action="store_true")
    options = parser.parse_args()
    one_thread()
    space, device = EinSpace(parse_shape(options.input), CLASSES), Device.parse(options.device)
    protocol = Protocol(min(Protocol.rounds, options.rounds), seed=options.seed, most_rounds=options.rounds)
    if options.table:
        table = LatencyTable.load(options.table)
        table.require(device, space.name, space.input_shape, space.classes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            table = build_table(space, device, Path(folder, "table.json"), protocol)
    print(f"{len(table.blocks)} blocks, {len(table.networks)} networks; {table.lines()}")
    print("error of left-out blocks:", ", ".join(f"{name} {text}" for name, text in blocks_by_kind(table).items()))

    networks = unseen(space, table, options.networks, options.seed)
    models = {**network_models(space, networks, device), **anchor_models(table, space, device)}
    samples = measure(device, models, protocol, cold_only=models)[device.quantity]
    change = drift(table, {name: Measured.of(values) for name, values in samples.items()})
    measured = np.array([float(estimates(samples[a.text])) for a in networks])
    halves = [np.array([float(estimates(samples[a.text][first::2])) for a in networks]) for first in (0, 1)]
    predicted = np.array([table.predict_ms(space.blocks(a)) for a in networks])
    known = [space.parse(each.architecture) for each in table.networks]
    slope, offset = np.polyfit(
        np.log([1 + space.macs(a) for a in known]), np.log([each.measured_ms for each in table.networks]), 1
    )
    macs = np.exp(slope * np.log([1 + space.macs(a) for a in networks]) + offset)
    bodies = [[block for block in space.blocks(a) if not block.free] for a in networks]
    share = np.mean([block.key not in table.blocks for body in bodies for block in body])
    low, middle, high = np.quantile(measured, [0, 0.5, 1])
    print(
        f"{len(networks)} networks of {low:.3f} to {high:.3g} ms, half below {middle:.3f} ms, {100 * share:.0f} % of "
        f"their blocks predicted; the device is at {change:.3f} x the latency of when the table was built"
    )
    print(f"{'':42} Spearman  MAPE  Kendall  within 10 %")
    ways = {
        "predicted": predicted,
        "predicted, drift taken out": change * predicted,
        "a power of MACs through the table's networks": macs,
    }
    if options.extend:
        blocks = [block for body in bodies for block in body]
        with tempfile.TemporaryDirectory() as folder:
            extended = extend_table(table, space, device, Path(folder, "table.json"), blocks, protocol)
        print(f"{len(extended.blocks) - len(table.blocks)} blocks measured into the table")
        found = [extended.predict_ms(space.blocks(a)) for a in networks]
        ways["their blocks measured, drift taken out"] = change * np.array(found)
    for name, found in ways.items():
        print(f"  {name:46} {row(Quality.of(found.tolist(), measured.tolist()))}")
    print(f"  {'every second round against the others':46} {row(Quality.of(*(half.tolist() for half in halves)))}")


if __name__ == "__main__":
    main()
