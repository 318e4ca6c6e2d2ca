"""Where training runs: the same code on a few CPU cores and on a GPU, which is fed from a thread in lower precision."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


def device() -> torch.device:
    """Return where training runs: CUDA where present, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision() -> AbstractContextManager[object]:
    """Return the context of a forward pass in training: bfloat16 on GPUs that compute in it, else full precision.

    Its range is that of float32, so that losses need no scaling. CPUs that emulate it train several times slower.
    """
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def scores(network: nn.Module, images: Tensor) -> Tensor:
    """Return the class scores (N, classes) of a forward pass in training, in float32 for the loss."""
    with precision():
        found: Tensor = network(images)
    return found.float()


def placed(loader: Iterator[tuple[Tensor, Tensor]], place: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of ``loader`` at ``place``; a GPU computes while a thread makes the next one.

    What ``loader`` draws from a generator must then be drawn by nobody else: the two would take turns by chance.
    """
    if place.type != "cuda":
        yield from loader
        return
    for images, labels in ahead((images.pin_memory(), labels.pin_memory()) for images, labels in loader):
        yield images.to(place, non_blocking=True), labels.to(place, non_blocking=True)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield ``items``, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
