"""Learning curves of a run are those of its checkpoints, with the accuracies of finalists that are done."""

import math
from dataclasses import asdict
from pathlib import Path

import pytest
from fakes import digits_task

from latency.files import write_sealed
from nas.delivery.curves import learning_curves
from nas.delivery.finalists import SCHEMA_VERSION, ModelFile, Trained
from nas.training.recipe import Recipe
from nas.training.train import train
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)


def test_supernet_and_finalists(tmp_path: Path) -> None:
    assert learning_curves(tmp_path) == []
    task = digits_task(SPACE, tmp_path, supernet_epochs=3)
    done, begun = (SPACE.parse(f"skip,{option},skip,skip,skip,k3_e1,skip,k3_e1") for option in ("k3_e1", "skip"))
    for architecture, epochs in ((done, 2), (begun, 1)):
        checkpoint = tmp_path / "finalists" / f"{architecture.id}.safetensors"
        train(task.fresh(architecture), task.dataset, Recipe(2), 0, checkpoint, until=epochs)
    trained = Trained(done.id, done.text, {"": ModelFile("models/x.onnx", "0" * 64, 0.81, 0.79, 1e-6)})
    write_sealed(tmp_path / "finalists" / f"{done.id}.json", SCHEMA_VERSION, asdict(trained))
    curves = {curve.name: curve for curve in learning_curves(tmp_path)}
    assert curves.keys() == {"supernet", done.id, begun.id}
    assert [len(curves[name].losses) for name in ("supernet", done.id, begun.id)] == [3, 2, 2]
    assert curves["supernet"].losses[2] < curves["supernet"].losses[0]
    assert [math.isnan(loss) for loss in curves[begun.id].losses] == [False, True]
    assert curves["supernet"].val_accuracy is None and curves[begun.id].val_accuracy is None
    assert curves[done.id].val_accuracy == 0.81
    task.supernet.rename(tmp_path / "whole.safetensors")  # type: ignore[union-attr]
    stage = tmp_path / "blockwise" / "stage2.safetensors"
    train(task.fresh(begun), task.dataset, Recipe(2), 0, stage, until=1)
    stage.with_name("paths2.safetensors").write_bytes(stage.read_bytes())
    assert {curve.name for curve in learning_curves(tmp_path)} == {"stage2, without labels", done.id, begun.id}
    (tmp_path / "supernet.safetensors").write_bytes(b"?")
    with pytest.raises(InputError, match="damaged"):
        learning_curves(tmp_path)
