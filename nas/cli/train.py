"""``nas train``: one architecture, trained and exported."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from latency.files import write_sealed
from nas.cli.app import Config, Cutmix, Data, Ema, Input, LabelSmoothing, Mixup, Seed, Space, app
from nas.cli.console import Terminal, console, typed
from nas.cli.spaces import Arch
from nas.config import SearchConfig, make_space, parse_input
from nas.delivery.export import export, file_metadata
from nas.delivery.finalists import COMPARED_IMAGES
from nas.folder import versions
from nas.search.executor import all_cores
from nas.training.data import load_dataset, to_tensor
from nas.training.oracle import Task
from nas.training.recipe import FINAL
from nas.training.train import accuracy
from nas.training.train import train as fit


@app.command(epilog="Example:  nas train --arch k3_e3,k3_e3,skip,k3_e3,k3_e3,k5_e6,k3_e3,k3_e6 --data digits --out net")
def train(
    arch: Arch,
    data: Data,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the network; resumes what it holds.")],
    space: Space = "fbnet",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = FINAL.epochs,
    label_smoothing: LabelSmoothing = FINAL.label_smoothing,
    mixup: Mixup = FINAL.mixup,
    cutmix: Cutmix = FINAL.cutmix,
    ema: Ema = FINAL.ema,
    input: Input = None,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Train one architecture from scratch and export it; the same command again resumes."""
    recipe = SearchConfig.checked(
        data=data, out=out, final_epochs=epochs, label_smoothing=label_smoothing, mixup=mixup, cutmix=cutmix, ema=ema,
        distil=0,
    ).final  # fmt: skip
    with Terminal().progress("reading the images"):
        images = load_dataset(data, parse_input(input), seed, out / "data")
    chosen = make_space(space, images.input_shape, len(images.classes))
    architecture = chosen.parse(arch)
    task = Task(chosen, data, parse_input(input), out / "data", seed, None, recipe)
    with Terminal().progress("training") as progress, all_cores():
        network = fit(task.fresh(architecture), images, recipe, seed, out / "checkpoint.safetensors", progress)
    metadata = file_metadata(architecture.text, images)
    val, test = accuracy(network, images.val, images), accuracy(network, images.test, images)
    compared = to_tensor(images.val.images[:COMPARED_IMAGES], images.mean, images.std)
    export(network, images.input_shape, out / "model.onnx", metadata, compared)
    result = {"architecture": architecture.text, "val_accuracy": val, "test_accuracy": test}
    record = {"recipe": asdict(recipe), "seed": seed, "command": typed(), "versions": versions()}
    write_sealed(out / "result.json", 2, {**result, **record, "data_digest": images.digest})
    console.print(
        f"{architecture.id}: validation accuracy {100 * val:.2f} %, test accuracy {100 * test:.2f} %; "
        f"written: {out / 'model.onnx'}",
        markup=False,
    )
