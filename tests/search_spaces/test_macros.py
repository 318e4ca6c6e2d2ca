"""Macro-architectures as data: what is taken over from another, and which one suits an image."""

from pathlib import Path

import pytest

from search_spaces import macros
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace

DEFINITIONS = """
[macro.wide]
sides = [8, 64]
side = 32
stem = [8, 1]
stages = [[8, 2, 1]]
head = 16

[macro.narrow]
like = "wide"
sides = [12, 20]
side = 16

[macro.other]
like = "narrow"
head = 24

[named.one]
macro = "wide"
layers = "k3_e1 | skip"

[named.two]
macro = "other"
like = "one"
"""


class MadeUp(FBNetSpace):
    family = "made_up"
    shown = "wide"


@pytest.fixture(autouse=True)
def definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up.toml").write_text(DEFINITIONS)
    monkeypatch.setattr(macros.resources, "files", lambda package: tmp_path)
    macros._definitions.cache_clear()


def test_what_is_not_said_anew_is_taken_over() -> None:
    assert MadeUp.macros() == ["wide", "narrow", "other"]
    assert [MadeUp.default_shape(macro)[1] for macro in (None, "wide", "narrow", "other")] == [32, 32, 16, 16]
    heads = {macro: MadeUp((1, 16, 16), 2, macro).positions()[-2][0].out_shape[0] for macro in MadeUp.macros()}
    assert heads == {"wide": 16, "narrow": 16, "other": 24}


def test_named_networks_share_their_layers() -> None:
    assert MadeUp.home_of("two") == "other"
    one, two = (MadeUp((1, 16, 16), 2, macro).named() for macro in ("wide", "other"))
    assert list(one) == ["one"] and list(two) == ["two"]
    assert one["one"].decisions == two["two"].decisions


@pytest.mark.parametrize(("side", "macro"), [(8, "wide"), (11, "wide"), (12, "narrow"), (20, "narrow"), (21, "wide")])
def test_the_narrowest_range_that_suits_is_taken(side: int, macro: str) -> None:
    assert MadeUp((1, side, side + 9), 2).name == f"made_up/{macro}"


def test_images_that_suit_none() -> None:
    with pytest.raises(InputError, match="images of 65 px do not fit the made_up space: it takes 8 to 64 px"):
        MadeUp((1, 65, 99), 2)
    with pytest.raises(InputError, match="unknown made_up macro-architecture 'wider'; did you mean 'wide'"):
        MadeUp((1, 16, 16), 2, "wider")
