"""``nas supernet``: how honest a supernet's ratings are."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nas.cli.app import Config, Data, Input, OneDevice, Seed, Space, SupernetPaths, app
from nas.cli.console import Terminal, console, typed
from nas.config import SearchConfig
from nas.folder import open_folder
from nas.supernet_report import report_supernet
from nas.training.report import FEWEST

_DEFAULT = {name: field.default for name, field in SearchConfig.model_fields.items()}

supernet = typer.Typer(no_args_is_help=True, help="Check how a supernet orders networks.")
app.add_typer(supernet, name="supernet")


@supernet.command(epilog="Example:  nas supernet report --data digits --networks 24 --seeds 2 --out runs/supernet")
def report(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the report; resumes what it holds.")],
    data: Data,
    space: Space = _DEFAULT["space"],
    device: OneDevice = "cpu",
    input: Input = None,
    oracle: Annotated[
        Literal["supernet", "blockwise"],
        typer.Option(help="How the supernet is trained: by labels, or stage by stage without them."),
    ] = "supernet",
    seed: Seed = _DEFAULT["seed"],
    networks: Annotated[int, typer.Option(min=FEWEST, help="Networks to train, evenly spread over latency.")] = 24,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings from scratch of each network.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training from scratch.")] = _DEFAULT[
        "proxy_epochs"
    ],
    supernet_steps: Annotated[
        int, typer.Option(min=1, help="Training steps of the supernet, rounded up to whole epochs.")
    ] = _DEFAULT["supernet_steps"],
    supernet_paths: SupernetPaths = _DEFAULT["supernet_paths"],
    table: Annotated[Path | None, typer.Option(help="Latency table to use instead of building one.")] = None,
    accept_table: Annotated[bool, typer.Option("--accept-table", help="Use a table with a large error.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Parallel workers, through Ray if more than one.")] = 1,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Ray cluster to use.")] = None,
    config: Config = None,
) -> None:
    """Train a supernet and some networks from scratch, and tell which rating orders the networks as training does.

    Compared are the inherited accuracy (with --oracle blockwise the block-wise score), what costs nothing (MACs,
    parameters, naswot, synflow) and combinations, among all networks and among those of like latency. Networks, seeds
    and epochs may be other ones when the same folder is used again: what was trained is kept.
    """
    checked = SearchConfig.checked(
        data=data, out=out, space=space, device=(device,), input=input, oracle=oracle, seed=seed,
        supernet_steps=supernet_steps, supernet_paths=supernet_paths, table=table, accept_table=accept_table,
        workers=workers, ray=ray,
    )  # fmt: skip
    with open_folder(checked, typed()) as folder:
        found = report_supernet(checked, networks, seeds, epochs, folder, Terminal())
        folder.save()
        written = found.save(out)
    found.show(Terminal())
    console.print(f"written: {', '.join(map(str, written))}", markup=False)
