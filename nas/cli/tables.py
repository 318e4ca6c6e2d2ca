"""``nas table`` and ``nas devices``: measured latency."""

import importlib.util
from pathlib import Path
from typing import Annotated

import onnxruntime
import typer

from latency.build import LARGEST_DRIFT, build_table, check_table, extend_table, recalibrate_table
from latency.device import PROVIDERS
from latency.device import Device as MeasuredDevice
from latency.fit import as_written, fit_timings, read_timings
from latency.host import fingerprint
from latency.measure import Protocol
from latency.models import measured_blocks
from latency.table import LatencyTable
from nas.cli.app import AnyDevice, Classes, Config, Json, OneDevice, Seed, Shape, Space, app, parse_shape
from nas.cli.console import Terminal, console
from nas.config import make_space
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace

TableFile = Annotated[Path, typer.Argument(metavar="TABLE", help="A table of `nas table build`.")]

table = typer.Typer(no_args_is_help=True, help="Build, fit and check latency tables.")
app.add_typer(table, name="table")

_MEANING = {
    "cold_cpu_ms": "CPU time of the first call after other work",
    "cold_wall_ms": "wall time of the first call after other work",
}


def _here() -> list[MeasuredDevice]:
    """Return the devices of this machine, one per engine and execution provider that is installed."""
    installed = onnxruntime.get_available_providers()
    targets = [name for name, provider in PROVIDERS.items() if f"{provider}ExecutionProvider" in installed]
    if importlib.util.find_spec("openvino"):
        targets.append("openvino")
    return [MeasuredDevice(target) for target in targets]


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
    """Measure every block of a space on a device; an interrupted build goes on where it was.

    Where a space has no end of blocks, a sample is measured and others are predicted; again with another --seed, a
    further sample is measured into the same table.
    """
    target = MeasuredDevice.parse(device)
    chosen = make_space(space, parse_shape(input) if input else None, classes)
    if out.exists():
        _extend(out, chosen, target, seed)
        return
    with Terminal().progress(f"measuring blocks on {target.name}") as progress:
        built = build_table(chosen, target, out, Protocol(seed=seed), progress)
    console.print(f"{len(built.blocks)} blocks of {built.space} measured on {built.fingerprint['cpu']}", markup=False)
    _show(built)
    console.print(f"written: {out}", markup=False)


def _extend(path: Path, space: SearchSpace, device: MeasuredDevice, seed: int) -> None:
    found = LatencyTable.load(path)
    found.require(device, space.name, space.input_shape, space.classes)
    lacking = found.missing(measured_blocks(space, (), seed))
    if not lacking:
        more = "; another --seed measures more of them" if space.endless else ""
        raise InputError(
            f"{path} holds every block already; `nas table check {path}` tells whether it still holds{more}"
        )
    with Terminal().progress(f"measuring {len(lacking)} blocks on {device.name}") as progress:
        extended = extend_table(found, space, device, path, lacking, Protocol(seed=seed), progress)
    console.print(f"{len(lacking)} blocks added to {path}", markup=False)
    if space.endless:
        _show(extended)


def _show(found: LatencyTable) -> None:
    console.print(f"latency table: {found.quality.text()}", markup=False)
    Terminal().table("", ["", ""], [[label, value] for label, value in found.lines().items()])


def _opened(path: Path) -> tuple[LatencyTable, SearchSpace, MeasuredDevice]:
    found = LatencyTable.load(path)
    device = MeasuredDevice.parse(found.device)
    space = make_space(found.space.partition("/")[0], found.input_shape, found.classes, f"{found.space}:")
    found.require(device, space.name, space.input_shape, space.classes)
    return found, space, device


@table.command(epilog="Example:  nas table fit timings.csv --space nb201 --out pixel.json")
def fit(
    file: Annotated[Path, typer.Argument(metavar="TIMINGS", help="CSV with the columns architecture and ms.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the table goes.")],
    name: Annotated[str | None, typer.Option("--name", help="The device's name. Default: that of TIMINGS.")] = None,
    input: Shape = None,
    space: Space = "fbnet",
    classes: Classes = 10,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Estimate what blocks cost from timings of whole networks: for devices where blocks cannot be measured.

    About 25 networks tell the order, 100 the milliseconds; the error is told, by five-fold cross-validation.
    """
    timings = read_timings(file)
    first = timings[0].architecture if timings else None
    chosen = make_space(space, parse_shape(input) if input else None, classes, first)
    if out.exists():
        raise InputError(f"{out} exists; delete it to fit anew")
    architectures = as_written(chosen, file, timings)
    fitted = fit_timings(chosen, architectures, [timing.ms for timing in timings], name or file.stem, seed)
    fitted.save(out)
    left_out = f", {fitted.left_out} next to zero left out" if fitted.left_out else ""
    console.print(f"{fitted.device}: {fitted.timings} networks of {fitted.space}{left_out}", markup=False)
    console.print(f"fitted table: {fitted.quality.text()} (cross-validated)", markup=False)
    console.print(f"written: {out}", markup=False)


@table.command(epilog="Example:  nas table check cpu.json")
def check(
    file: TableFile,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Measure fresh networks and tell whether a table still holds; exit code 1 if it does not."""
    found, space, device = _opened(file)
    with Terminal().progress(f"measuring networks on {device.name}") as progress:
        quality, drift = check_table(found, space, device, Protocol(seed=seed), progress)
    console.print(f"when built: {found.quality.text()}", markup=False)
    console.print(f"now, drift taken out: {quality.text()}", markup=False)
    console.print(f"drift: measured / predicted is {drift:.3f}", markup=False)
    if not found.holds(quality):
        console.print("the table no longer holds: build it anew", markup=False)
    elif abs(drift - 1) > LARGEST_DRIFT:
        console.print(f"the device has drifted: `nas table recalibrate {file}` measures a few networks", markup=False)
    else:
        console.print("the table holds", markup=False)
        return
    raise typer.Exit(1)


@table.command(epilog="Example:  nas table recalibrate cpu.json")
def recalibrate(
    file: TableFile,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Measure a table's networks again and fit it to how fast the device is now; blocks are not measured anew."""
    found, space, device = _opened(file)
    with Terminal().progress(f"measuring networks on {device.name}") as progress:
        renewed = recalibrate_table(found, space, device, file, Protocol(seed=seed), progress)
    console.print(f"before: {found.quality.text()}", markup=False)
    console.print(f"latency table: {renewed.quality.text()}", markup=False)
    console.print(f"written: {file}", markup=False)


@app.command(epilog="Example:  nas devices --device cpu:threads=2 --device ssh://pi@board/cpu")
def devices(device: AnyDevice = None, json: Json = False, config: Config = None) -> None:
    """Describe devices: those of this machine, or any that --device names, which are then reached for.

    A device is [ssh://[user@]host[:port]/]TARGET[:OPTION,...]. Targets are the execution providers of ONNX Runtime
    (cpu, cuda, ...) and openvino; options are threads=N, batch=N, int8, bf16 (openvino) and python=PATH (ssh).
    """
    chosen = [MeasuredDevice.parse(name) for name in device or []] or _here()
    for one in chosen:
        found = fingerprint(one)
        if json:
            console.print_json(data={**found, "quantity": one.quantity}, indent=None)
        else:
            rows = [[key, value] for key, value in found.items() if key != "device"]
            Terminal().table(one.name, ["", ""], [*rows, ["latency is", _MEANING[one.quantity]]])
