"""``nas table`` and ``nas devices``: measured latency."""

from pathlib import Path
from typing import Annotated

import typer

from latency.build import build_table, check_table
from latency.device import DEVICES
from latency.device import Device as MeasuredDevice
from latency.measure import Protocol
from latency.table import LatencyTable
from nas.cli.app import Classes, Config, Json, OneDevice, Seed, Shape, Space, app, parse_shape
from nas.cli.console import Terminal, console
from nas.config import make_space
from search_spaces.errors import InputError

table = typer.Typer(no_args_is_help=True, help="Build and check latency tables.")
app.add_typer(table, name="table")

# A table whose anchor moved further than this no longer tells milliseconds.
LARGEST_DRIFT = 0.10


@table.command(epilog="Example:  nas table build --space fbnet --input 3x32x32 --classes 10 --out cpu.json")
def build(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the table goes.")],
    input: Shape = None,
    space: Space = "fbnet",
    classes: Classes = 10,
    device: OneDevice = "cpu",
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Measure every block of a space on a device; an interrupted build goes on where it was."""
    target = MeasuredDevice.parse(device)
    chosen = make_space(space, parse_shape(input) if input else None, classes)
    if out.exists():
        raise InputError(f"{out} exists; delete it to measure anew, or see `nas table check {out}`")
    with Terminal().progress(f"measuring blocks on {device}") as progress:
        built = build_table(chosen, target, out, Protocol(seed=seed), progress)
    console.print(f"{len(built.blocks)} blocks of {built.space} measured on {built.fingerprint['cpu']}", markup=False)
    console.print(f"latency table: {built.quality.text()}", markup=False)
    console.print(f"written: {out}", markup=False)


@table.command(epilog="Example:  nas table check cpu.json")
def check(
    file: Annotated[Path, typer.Argument(metavar="TABLE", help="A table of `nas table build`.")],
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Measure fresh networks and tell whether a table still holds; exit code 1 if it does not."""
    found = LatencyTable.load(file)
    device = MeasuredDevice.parse(found.device)
    name, _, macro = found.space.partition("/")
    space = make_space(name, found.input_shape, found.classes, f"{name}/{macro}:")
    found.require(device, space.name, space.input_shape, space.classes)
    with Terminal().progress(f"measuring networks on {device.name}") as progress:
        quality, drift = check_table(found, space, device, Protocol(seed=seed), progress)
    console.print(f"when built: {found.quality.text()}", markup=False)
    console.print(f"now: {quality.text()}; measured / predicted is {drift:.3f}", markup=False)
    holds = quality.good and abs(drift - 1) <= LARGEST_DRIFT
    console.print("the table holds" if holds else "the table no longer holds: build it anew", markup=False)
    if not holds:
        raise typer.Exit(1)


@app.command(epilog="Example:  nas devices --json")
def devices(json: Json = False, config: Config = None) -> None:
    """List the devices that can be measured, with what identifies them."""
    for device in DEVICES.values():
        fingerprint = device.fingerprint()
        if json:
            console.print_json(data=fingerprint, indent=None)
        else:
            rows = [[key, value] for key, value in fingerprint.items() if key != "device"]
            Terminal().table(device.name, ["", ""], rows)
