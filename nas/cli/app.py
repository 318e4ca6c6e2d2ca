"""The application, the options that several commands share, and settings from TOML files."""

import tomllib
from pathlib import Path
from typing import Annotated

import typer

from nas import config as settings
from nas.config import SPACES
from nas.training.paths import PathKind
from search_spaces.errors import InputError, unknown

app = typer.Typer(
    name="nas",
    help="Find networks that are accurate and fast on the device that you measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _load_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Let the keys of a TOML file stand for flags; flags on the command line win."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"--config {path} is no TOML: {error}") from None
    # By the long flag: a flag like --from cannot be the name of a parameter.
    options = {max(p.opts, key=len).lstrip("-").replace("-", "_"): p for p in context.command.params if p.name}
    known = set(options) - {"config", "help"}
    for key in values:
        if key.replace("-", "_") not in known:
            raise unknown(f"key in {path}:", key, [name.replace("_", "-") for name in known])
    context.default_map = {}
    for key, value in values.items():
        option = options[key.replace("-", "_")]
        single = getattr(option, "multiple", False) and not isinstance(value, list)
        context.default_map[str(option.name)] = [value] if single else value
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", callback=_load_settings, is_eager=True, metavar="FILE",
        help="TOML file whose keys stand for the flags of this command.",
    ),
]  # fmt: skip
Space = Annotated[str, typer.Option("--space", help=f"Search space: {', '.join(SPACES)}.")]
Input = Annotated[
    str | None,
    typer.Option("--input", metavar="SHAPE", help="Input size: 64 or 3x64x64. Default: the images' own size."),
]
Shape = Annotated[str | None, typer.Option("--input", metavar="CxHxW", help="Input shape, as in 3x32x32.")]
Classes = Annotated[int, typer.Option("--classes", min=2, help="Number of classes.")]
Device = Annotated[
    list[str],
    typer.Option("--device", help="Target device; see `nas devices`. Recorded: table:FILE#COLUMN or table:FILE.json."),
]
AnyDevice = Annotated[list[str] | None, typer.Option("--device", help="A device; may be given several times.")]
OneDevice = Annotated[str, typer.Option("--device", help="Target device; see `nas devices`.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Fixes every random choice.")]
SupernetPaths = Annotated[
    PathKind,
    typer.Option(help="Paths that each step of the supernet trains: a random one, one per candidate, or four."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
Data = Annotated[
    str,
    typer.Option(
        "--data", metavar="PATH", show_default=False,
        help="digits (bundled), a folder of images, a folder of parquet files, or an .npz file.",
    ),
]  # fmt: skip

FINAL_TRAINING = "Final training"
LabelSmoothing = Annotated[
    float,
    typer.Option(
        "--label-smoothing", help="Share of a label that goes to all classes.", rich_help_panel=FINAL_TRAINING
    ),
]
Mixup = Annotated[
    float,
    typer.Option("--mixup", help="Add up pairs of images by shares from Beta(x, x).", rich_help_panel=FINAL_TRAINING),
]
Cutmix = Annotated[
    float,
    typer.Option(
        "--cutmix", help="Paste a part of another image, its share from Beta(x, x).", rich_help_panel=FINAL_TRAINING
    ),
]
Ema = Annotated[
    float,
    typer.Option("--ema", help="Decay per step of the weights' average, as in 0.999.", rich_help_panel=FINAL_TRAINING),
]

parse_shape = settings.parse_shape
