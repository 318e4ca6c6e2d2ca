"""``nas spaces`` and ``nas export``: architectures, without any search."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from dashboards.tree import tree_svg
from latency.files import produce
from latency.fit import FittedTable, load_table
from latency.table import LatencyTable
from nas.cli.app import Classes, Config, Json, Seed, Shape, Space, app, parse_shape
from nas.cli.console import Terminal, console
from nas.config import SPACES, make_space
from nas.delivery.export import export as export_onnx
from search_spaces.architecture import Architecture
from search_spaces.block import shape_text
from search_spaces.einspace.space import EinSpace
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace
from search_spaces.space import sample as sample_one

spaces = typer.Typer(no_args_is_help=True, help="Look at search spaces and their architectures.")
app.add_typer(spaces, name="spaces")

SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help=f"Search space: {', '.join(SPACES)}.")]
Arch = Annotated[
    str,
    typer.Option("--arch", metavar="TEXT", help="A name (see `nas spaces list`) or an architecture's text."),
]


Table = Annotated[
    Path | None,
    typer.Option(
        "--table", metavar="FILE", help="Predict ms by a table, measured or fitted; it fixes input and classes."
    ),
]
AnyTable = LatencyTable | FittedTable


def _facts(space: SearchSpace, architecture: Architecture, table: AnyTable | None) -> dict[str, str | int | float]:
    facts: dict[str, str | int | float] = {
        "architecture": architecture.text,
        "id": architecture.id,
        "macs": space.macs(architecture),
        "params": space.params(architecture),
    }
    return facts if table is None else {**facts, "predicted_ms": table.predict_ms(space.blocks(architecture))}


def _space_of(
    name: str, input: str | None, classes: int, path: Path | None, architecture: str | None = None
) -> tuple[SearchSpace, AnyTable | None]:
    """Return the space that the flags describe, or the one of a table, and the table."""
    if path is None:
        return make_space(name, parse_shape(input) if input else None, classes, architecture), None
    table = load_table(path)
    if name not in (table.space, table.space.partition("/")[0]):
        raise InputError(f"--table {path} is for the space {table.space}, not for {name}")
    space = make_space(name, table.input_shape, table.classes, f"{table.space}:")
    if input and parse_shape(input) != space.input_shape:
        raise InputError(f"--input {input}: --table {path} is for {shape_text(space.input_shape)}")
    return space, table


@spaces.command("list", epilog="Example:  nas spaces list")
def list_(json: Json = False, config: Config = None) -> None:
    """List the spaces, their macro-architectures and named architectures."""
    for name, kind in SPACES.items():
        for macro in kind.macros():
            space = kind(kind.default_shape(macro), 1000, macro)
            shape = shape_text(space.input_shape)
            named = sorted(space.named())
            if json:
                row = {
                    "space": name,
                    "macro": space.name,
                    "input": shape,
                    "decisions": space.searchable,
                    "named": named,
                }
                console.print_json(data=row, indent=None)
            else:
                known = f"; named: {', '.join(named)}" if named else ""
                decisions = (
                    f"up to {space.searchable:,} decisions" if space.endless else f"{space.searchable} decisions"
                )
                console.print(
                    f"{space.name}: {decisions}, shown at {shape}{known}",
                    markup=False,
                )


@spaces.command(epilog="Example:  nas spaces show fbnet --arch fbnet_b --json")
def show(
    space: SpaceName,
    arch: Arch,
    input: Shape = None,
    classes: Classes = 1000,
    table: Table = None,
    svg: Annotated[
        Path | None,
        typer.Option("--svg", metavar="FILE", help="Also draw the derivation tree of a network of einspace."),
    ] = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Show one architecture with its MACs and parameters, layer by layer or, where layers branch, as a tree.

    Counts follow the FBNet authors: MACs of convolutions, linear layers and global pooling; weights without
    biases and norms. In attention, products of two feature maps are MACs too. ``trainable`` are all parameters, those
    of biases and norms too.
    """
    chosen, found = _space_of(space, input, classes, table, arch)
    architecture = chosen.parse(arch)
    facts = _facts(chosen, architecture, found)
    with torch.device("meta"):  # shapes without values
        facts["trainable"] = sum(parameter.numel() for parameter in chosen.build(architecture).parameters())
    if svg:
        _write_tree(svg, chosen, architecture, facts)
    if json:
        console.print_json(data=facts, indent=None)
        return
    if lines := chosen.drawing(architecture):
        _draw(chosen, lines, facts)
    else:
        _list(chosen, architecture, facts)
    if found:
        console.print(f"predicted ms: {facts['predicted_ms']:.3g} on {found.device}", markup=False)
    if svg:
        console.print(f"written: {svg}", markup=False)


def _list(space: SearchSpace, architecture: Architecture, facts: Mapping[str, str | int | float]) -> None:
    rows = [
        [block.spec, shape_text(block.in_shape), f"{block.macs:,}", f"{block.params:,}"]
        for block in space.blocks(architecture)
    ]
    rows.append(["total", "", f"{facts['macs']:,}", f"{facts['params']:,}"])
    Terminal().table(f"{architecture.text}  ({architecture.id})", ["block", "input", "MACs", "params"], rows)
    console.print(f"{space.classes} classes; with biases and norms {facts['trainable']:,} params", markup=False)


def _headline(space: SearchSpace, facts: Mapping[str, str | int | float]) -> str:
    return f"{space.name} {facts['id']}: {shape_text(space.input_shape)} to {space.classes} classes"


def _write_tree(
    path: Path, space: SearchSpace, architecture: Architecture, facts: Mapping[str, str | int | float]
) -> None:
    if not isinstance(space, EinSpace):
        raise InputError(f"--svg {path} draws the derivation from a grammar: {space.name} has none, einspace has")
    title = f"{_headline(space, facts)}, {facts['macs']:,} MACs, {facts['params']:,} params"
    if path.is_dir():
        raise InputError(f"--svg {path} is a folder; give the name of a file")
    picture = tree_svg(space.tree(architecture), title).encode()
    produce(path, lambda temporary: temporary.write_bytes(picture))


def _draw(space: SearchSpace, lines: list[str], facts: Mapping[str, str | int | float]) -> None:
    console.print(_headline(space, facts), style="bold", markup=False)
    for line in lines:
        console.print(line, markup=False)
    counts = f"{facts['macs']:,} MACs, {facts['params']:,} params; with biases and norms {facts['trainable']:,}"
    console.print(f"total, with pooling and classifier: {counts}", markup=False)
    console.print(f"text: {facts['architecture']}", markup=False)


@spaces.command(epilog="Example:  nas spaces sample fbnet -n 200 --seed 7 --input 3x32x32 --json")
def sample(
    space: SpaceName,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many architectures.")] = 10,
    seed: Seed = 0,
    input: Shape = None,
    classes: Classes = 10,
    table: Table = None,
    json: Json = False,
    config: Config = None,
) -> None:
    """Draw architectures at random, every decision with the space's probabilities."""
    chosen, found = _space_of(space, input, classes, table)
    rng = np.random.default_rng(seed)
    for _ in range(number):
        facts = _facts(chosen, sample_one(chosen, rng), found)
        if json:
            console.print_json(data=facts, indent=None)
        else:
            predicted = f"  {facts['predicted_ms']:>8.3g} predicted ms" if found else ""
            console.print(
                f"{facts['id']}  {facts['macs']:>13,} MACs  {facts['params']:>9,} params{predicted}  "
                f"{facts['architecture']}",
                markup=False,
            )


@app.command(epilog="Example:  nas export --space fbnet --arch fbnet_b --input 3x224x224 --classes 1000 --out b.onnx")
def export(
    arch: Arch,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the ONNX file goes.")],
    space: Space = "fbnet",
    input: Shape = None,
    classes: Classes = 1000,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Export any architecture as ONNX, with untrained weights; see `nas train` for trained ones."""
    chosen = make_space(space, parse_shape(input) if input else None, classes, arch)
    architecture = chosen.parse(arch)
    torch.manual_seed(seed)
    network = chosen.build(architecture)
    images = torch.randn(4, *chosen.input_shape)
    with Terminal().progress("exporting") as progress:
        progress(0, 1)
        metadata: dict[str, object] = {"architecture": architecture.text, "trained": False}
        difference = export_onnx(network, chosen.input_shape, out, metadata, images)
        progress(1, 1)
    console.print(
        f"{out}: {chosen.macs(architecture):,} MACs, {chosen.params(architecture):,} params, untrained; "
        f"ONNX Runtime and PyTorch differ by {difference:.1e}",
        markup=False,
    )
