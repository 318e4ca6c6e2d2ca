"""The architecture's text and id, and the one error type."""

import hashlib
import pickle

import pytest

from search_spaces.architecture import Architecture
from search_spaces.errors import InputError, unknown


def test_text_and_id() -> None:
    architecture = Architecture("toy", (("a", "x"), ("b", "y")))
    assert architecture.text == str(architecture) == "toy:x,y"
    assert architecture.id == hashlib.sha256(b"toy:x,y").hexdigest()[:10]


def test_is_a_value() -> None:
    one, other = (Architecture("toy", (("a", "x"),)) for _ in range(2))
    assert one.id and one == other and hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert Architecture("toy", (("a", "z"),)) != one


@pytest.mark.parametrize(
    ("name", "message"),
    [("kk3", "unknown kernel 'kk3'; did you mean 'k3'?"), ("huge", "unknown kernel 'huge'; known: k3, k5")],
)
def test_unknown_names_the_nearest_or_all(name: str, message: str) -> None:
    error = unknown("kernel", name, ["k5", "k3"])
    assert isinstance(error, InputError) and str(error) == message
