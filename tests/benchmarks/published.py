"""The published networks of fbnet and fbnetv2: their counts, and their latency on this machine, measured side by side.

Run: .venv/bin/python -P tests/benchmarks/published.py [--device cpu] [--picture docs/spaces.png]
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from latency.device import Device
from latency.measure import Measured, Noise, Protocol, measure
from latency.models import network_models, seeded
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.macros import MacroSpace

# Published top-1 accuracy (%) on ImageNet: that of the authors' released models; of the phones' networks the paper's.
TOP1 = {
    "fbnet_a": 73.3, "fbnet_b": 74.5, "fbnet_c": 75.3, "fbnet_s8": 73.3, "fbnet_iphone_x": 73.2,
    "fbnetv2_f1": 68.3, "fbnetv2_f2": 71.0, "fbnetv2_f3": 73.0, "fbnetv2_f4": 75.8,
    "fbnetv2_l1": 77.0, "fbnetv2_l2": 78.2,
}  # fmt: skip
# How the names of a family begin, and its colour.
FAMILIES = {
    "FBNet": ("fbnet_", "tab:blue"),
    "FBNetV2-F": ("fbnetv2_f", "tab:orange"),
    "FBNetV2-L": ("fbnetv2_l", "tab:green"),
}
# Names that stand left of their marks: on the right there is no room.
NAMED_LEFT = ("fbnetv2", "fbnet_b")


class Row(NamedTuple):
    """A network: the side of its input in px, its counts, its latency in ms."""

    name: str
    side: int
    macs: int
    params: int
    latency: Measured


def measured(device: Device) -> list[Row]:
    """Measure every named network at its own resolution, all in one interleaved job."""
    spaces: list[MacroSpace] = [
        kind(kind.default_shape(macro), 1000, macro) for kind in (FBNetSpace, FBNetV2Space) for macro in kind.macros()
    ]
    networks = [(name, space, architecture) for space in spaces for name, architecture in space.named().items()]
    with seeded(0):
        models = {name: network_models(space, [a], device)[a.text] for name, space, a in networks}
    samples = measure(device, models, Protocol(), cold_only=models)
    print(Noise.of(samples, device.quantity).text(Protocol()))
    found = {name: Measured.of(samples[device.quantity][name]) for name in models}
    rows = [Row(name, space.input_shape[1], space.macs(a), space.params(a), found[name]) for name, space, a in networks]
    return sorted(rows, key=lambda row: row.name)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| network | input px | MACs | parameters | published top-1 % | measured ms | 90 % interval |"]
    lines.append("|---|---:|---:|---:|---:|---:|---|")
    for row in rows:
        ms = row.latency
        counts = f"{row.macs:,} | {row.params:,} | {TOP1[row.name]:.1f}"
        lines.append(f"| `{row.name}` | {row.side} | {counts} | {ms.ms:.2f} | {ms.low:.2f}-{ms.high:.2f} |")
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Draw latency beside MACs, one colour per family, each network with its name."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for label, (prefix, colour) in FAMILIES.items():
        family = [row for row in rows if row.name.startswith(prefix)]
        values = [row.latency.ms for row in family]
        errors = [
            [row.latency.ms - row.latency.low for row in family],
            [row.latency.high - row.latency.ms for row in family],
        ]
        axes.errorbar([row.macs / 1e6 for row in family], values, errors, fmt="o", color=colour, capsize=3, label=label)
        for row in family:
            left = row.name.startswith(NAMED_LEFT)
            axes.annotate(
                row.name, (row.macs / 1e6, row.latency.ms), (-8 if left else 8, 0), textcoords="offset points",
                ha="right" if left else "left", va="center", color=colour,
            )  # fmt: skip
    axes.set(xlabel="MACs (million)", ylabel="measured latency (ms): cpu, one thread, float32")
    axes.set(xlim=(0, 450), ylim=(0, 1.1 * max(row.latency.high for row in rows)))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table, and draw the picture if asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    rows = measured(Device.parse(options.device))
    print(table(rows))
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()
