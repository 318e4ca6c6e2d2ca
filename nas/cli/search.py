"""``nas search``, ``nas front`` and ``nas dashboard``: a run, and ways to look at it."""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli.app import (
    FINAL_TRAINING,
    Config,
    Cutmix,
    Data,
    Device,
    Ema,
    Input,
    Json,
    LabelSmoothing,
    Mixup,
    Seed,
    Space,
    SupernetPaths,
    app,
)
from nas.cli.console import Terminal, console, show_front, typed
from nas.config import SearchConfig
from nas.delivery.curves import learning_curves
from nas.delivery.front import Front, RecordedFront, load_front
from nas.folder import open_folder, read_record
from nas.replay import run_replay
from nas.reuse import TRIALS, inherit
from nas.run import run_search
from nas.search.record import trials_table
from nas.search.samplers import SamplerKind
from nas.search.study import STUDY_NAME, read_study

_DEFAULT = {name: field.default for name, field in SearchConfig.model_fields.items()}
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that --out named.")]


def _write_report(folder: Path, record: dict[str, Any]) -> Path:
    from dashboards.report import write_report  # figures take a second to import, and most commands show none

    front = load_front(folder)
    study = read_study(folder / "study.journal")
    trials = {device.device: trials_table(study, device.metric) for device in front.devices}
    run = {**record, "command": record["commands"][-1]}
    return write_report(folder, front, trials, run, learning_curves(folder))


@app.command(epilog="Example:  nas search --data digits --budget-ms 0.2 --trials 60 --out runs/digits")
def search(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of this run; resumes what it holds.")],
    data: Data = _DEFAULT["data"],
    config: Config = None,
    from_run: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Take over the supernet and all ratings of an earlier run, for another device or budget.",
        ),
    ] = None,
    space: Space = _DEFAULT["space"],
    device: Device = ["cpu"],  # noqa: B006  (Typer copies it)
    budget_ms: Annotated[float | None, typer.Option(help="Slowest network of interest, in ms.")] = None,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Plan the search to take this long, as in 90s, 30m or 1h30m: what is not given is decided by what the "
            "parts are measured to cost.",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option(help=f"Candidates to consider; with --from new ones, {TRIALS} unless each is trained.")
    ] = _DEFAULT["trials"],
    input: Input = None,
    oracle: Annotated[
        str,
        typer.Option(
            metavar="ORACLE",
            help="How candidates are rated: supernet, blockwise (a supernet that is trained without labels), train, or "
            "table:FILE#COLUMN, which has recorded accuracies; auto, the default with --time, takes what pays. In "
            "einspace the default is train.",
        ),
    ] = _DEFAULT["oracle"],
    halving: Annotated[
        bool,
        typer.Option(
            "--halving/--no-halving",
            help="With --oracle train, stop candidates that fall behind; goes with --sampler random.",
        ),
    ] = _DEFAULT["halving"],
    sampler: Annotated[SamplerKind, typer.Option(help="How candidates are proposed.")] = _DEFAULT["sampler"],
    start: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,...", help="Named networks of the space to rate first, as in resnet18,wrn16_4."),
    ] = None,
    seed: Seed = _DEFAULT["seed"],
    finalists: Annotated[int, typer.Option(help="Networks of the search to train to the end.")] = _DEFAULT["finalists"],
    family: Annotated[
        int, typer.Option(help="Members of the hand-made family to train beside them, as the baseline; 0 for none.")
    ] = _DEFAULT["family"],
    supernet_steps: Annotated[
        int, typer.Option(help="Training steps of the supernet, rounded up to whole epochs; blockwise shares them out.")
    ] = _DEFAULT["supernet_steps"],
    supernet_paths: SupernetPaths = _DEFAULT["supernet_paths"],
    proxy_epochs: Annotated[
        int, typer.Option(help="Epochs per candidate with --oracle train, and of the rank check.")
    ] = _DEFAULT["proxy_epochs"],
    final_epochs: Annotated[int, typer.Option(help="Epochs per finalist.", rich_help_panel=FINAL_TRAINING)] = _DEFAULT[
        "final_epochs"
    ],
    label_smoothing: LabelSmoothing = _DEFAULT["label_smoothing"],
    mixup: Mixup = _DEFAULT["mixup"],
    cutmix: Cutmix = _DEFAULT["cutmix"],
    ema: Ema = _DEFAULT["ema"],
    distil: Annotated[
        float,
        typer.Option(
            help="Share of the loss that imitates the supernet's largest network.", rich_help_panel=FINAL_TRAINING
        ),
    ] = _DEFAULT["distil"],
    rank_networks: Annotated[
        int,
        typer.Option(
            help="Networks trained from scratch to check the supernet's ranking; 12 or more may change the rating."
        ),
    ] = _DEFAULT["rank_networks"],
    table: Annotated[Path | None, typer.Option(help="Latency table to use instead of building one.")] = None,
    accept_table: Annotated[bool, typer.Option("--accept-table", help="Use a table with a large error.")] = False,
    workers: Annotated[int, typer.Option(help="Parallel workers, through Ray if more than one.")] = 1,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Ray cluster to use.")] = None,
) -> None:
    """Search for networks; the same command again resumes where it was stopped.

    Measures the space's blocks on each device, trains a supernet, searches, trains the finalists to the end and
    leaves their Pareto front in --out as ONNX files with measured latency, tables and plots.

    With --oracle table:FILE#COLUMN and --device table:FILE#COLUMN it searches among recorded numbers, in seconds:
    nothing is trained, measured or exported, and --data is left out. FILE is a CSV file (.gz or not) with a column
    architecture or arch; a device's may have idx instead, joined with the oracle's. --device table:FILE.json takes a
    table of `nas table`.

    With --from RUN only latencies are new: all that RUN has rated counts here as well, and its supernet rates the
    new candidates, so nothing is trained before the finalists. Settings that are not given are those of RUN, but for
    --budget-ms; --device, --budget-ms, --trials, --sampler, --finalists, --family and what is said of the final
    training may differ.

    With --time, steps, networks and epochs that are not given are planned: the table of blocks first, then cheap
    ratings, then more than half of the time for the finalists. Where the time is too short for a search to pay, the
    hand-made family and the largest network per latency bin are trained instead.
    """
    values = {"from" if n == "from_run" else n: v for n, v in locals().items() if n not in ("config", "context")}
    given = _given(context, values)
    checked = SearchConfig.checked(**given) if from_run is None else inherit(from_run, given)
    with open_folder(checked, typed()) as folder:
        run = run_replay if checked.recorded else run_search
        front: Front | RecordedFront = run(checked, folder, Terminal())
        folder.save()
        report = _write_report(folder.path, folder.record)
    show_front(front)
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in folder.record["stages"].items())
    console.print(f"time: {stages}", markup=False)
    console.print(f"report: {report}", markup=False)


def _given(context: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that the command line or a file of --config gives."""
    names = {name: "from_run" if name == "from" else name for name in values}
    sources = {name: context.get_parameter_source(names[name]) for name in values}
    return {name: value for name, value in values.items() if (source := sources[name]) and source.name != "DEFAULT"}


@app.command(epilog="Example:  nas front runs/first --json")
def front(run: RunDir, json: Json = False, config: Config = None) -> None:
    """Show the front of a finished run and write its report anew."""
    found = load_front(run)
    if isinstance(found, Front):
        found.require_files(run)
    if json:
        for row in found.table().to_dict("records"):
            console.print_json(data=row, indent=None)
        return
    report = _write_report(run, read_record(run))
    show_front(found)
    console.print(f"report: {report}", markup=False)


@app.command(epilog="Example:  nas dashboard runs/first --port 8080")
def dashboard(
    run: RunDir,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8080,
    config: Config = None,
) -> None:
    """Open the study of a run in Optuna Dashboard, on this machine alone, until Ctrl-C."""
    from dashboards import board
    from dashboards.figures import front_figure

    read_record(run)
    figures = {}
    if (run / "front.json").exists():
        study = read_study(run / "study.journal")
        for device in load_front(run).devices:
            figures[device.device] = front_figure(trials_table(study, device.metric), device)

    def ready(url: str) -> None:
        console.print(f"Optuna Dashboard: {url}  (Ctrl-C ends it)", markup=False)

    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
        board.serve(run / "study.journal", STUDY_NAME, figures, port, ready)
