"""Checkpoints of trainings: tensors, the epochs done, and the job that they belong to."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from latency.files import sha256, write_bytes
from nas.training.data import Dataset
from nas.training.recipe import Recipe
from search_spaces.errors import InputError

SCHEMA_VERSION = "2"
LOSSES = "losses"
"""The tensor (epochs,) of each epoch's mean training loss, NaN for those to come."""


def job_of(state: Mapping[str, Tensor], data: Dataset, recipe: Recipe, seed: int, also: str) -> str:
    """Return what a checkpoint must agree in: another network or other data give other weights."""
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    return sha256(json.dumps([shapes, data.digest, asdict(recipe), seed, also], sort_keys=True).encode())


def save(path: Path, state: Mapping[str, Tensor], epoch: int, job: str) -> None:
    """Write a checkpoint after ``epoch`` epochs."""
    metadata = {"schema_version": SCHEMA_VERSION, "epoch": str(epoch), "job": job}
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_bytes(path, serialised(content, metadata))


def resume(path: Path, state: Mapping[str, Tensor], job: str) -> int:
    """Load a checkpoint into ``state`` and return its number of finished epochs; 0 where there is none.

    Raises:
        InputError: the checkpoint is damaged, of another version, or of another job.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            version = metadata["schema_version"]
            if version != SCHEMA_VERSION:
                raise InputError(
                    f"checkpoint {path} has schema version {version}; this version reads {SCHEMA_VERSION}; "
                    "delete it to start anew"
                )
            if metadata["job"] != job:
                raise InputError(
                    f"checkpoint {path} was made with another network, other data or another recipe; "
                    "delete it to start anew"
                )
            with torch.no_grad():
                for name, tensor in state.items():
                    tensor.copy_(file.get_tensor(name))
            return int(metadata["epoch"])
    except InputError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(f"checkpoint {path} is damaged; delete it to start anew") from None


def losses(path: Path) -> list[float]:
    """Return the mean training loss of each epoch, NaN for those to come; nothing where an old version kept none.

    Raises:
        InputError: the checkpoint is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            kept: list[float] = file.get_tensor(LOSSES).tolist() if LOSSES in file.keys() else []
            return kept
    except SafetensorError:
        raise InputError(f"checkpoint {path} is damaged; delete it to start anew") from None
