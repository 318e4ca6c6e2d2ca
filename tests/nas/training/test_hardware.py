"""On a CPU nothing is cast or moved; what a GPU is fed by can be tried without one."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from nas.training.hardware import ahead, device, placed, precision, scores

CPU = torch.device("cpu")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@without_cuda
def test_nothing_is_cast_on_a_cpu() -> None:
    layer, images = nn.Linear(3, 2), torch.randn(4, 3)
    assert device() == CPU
    with precision():
        assert not torch.is_autocast_enabled("cuda") and not torch.is_autocast_enabled("cpu")
        assert layer(images).dtype == torch.float32
    assert torch.equal(scores(layer, images), layer(images))


def test_scores_are_for_the_loss_in_full_precision() -> None:
    layer = nn.Linear(3, 2).bfloat16()
    assert scores(layer, torch.randn(4, 3).bfloat16()).dtype == torch.float32


def pairs(count: int, seen: list[int] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    for number in range(count):
        if seen is not None:
            seen.append(number)
        yield torch.full((2, 1), float(number)), torch.full((2,), number)


def test_batches_stay_where_they_are_on_a_cpu() -> None:
    made = list(pairs(3))
    found = list(placed(iter(made), CPU))
    assert all(
        one is other for pair, kept in zip(found, made, strict=True) for one, other in zip(pair, kept, strict=True)
    )
    seen: list[int] = []
    loader = placed(pairs(3, seen), CPU)
    next(loader)
    assert seen == [0], "the randomness of a batch's loss comes before that of the next batch"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_ahead_yields_the_same_in_order(count: int) -> None:
    assert list(ahead(iter(range(1, count + 1)))) == list(range(1, count + 1))


def test_ahead_makes_one_more_in_another_thread() -> None:
    made, second = [], threading.Event()

    def items() -> Iterator[threading.Thread]:
        for number in range(3):
            made.append(number)
            if number == 1:
                second.set()
            yield threading.current_thread()

    found = ahead(items())
    assert next(found) is not threading.main_thread()
    assert second.wait(10), "the second is made while the first is used"
    assert made == [0, 1]
    found.close()
    assert made == [0, 1]


def test_ahead_raises_what_its_source_raises() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(OSError, match="gone"):
        next(found)
