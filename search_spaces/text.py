"""Architectures from their texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from search_spaces.architecture import Architecture
from search_spaces.errors import InputError, unknown

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

# A derivation may have a thousand characters, of which the ends tell which one it is.
_SHOWN = 60


def read_text(space: "SearchSpace", text: str) -> Architecture:
    """Return the architecture of a name or the decisions of a text; see ``SearchSpace.as_written``."""
    if ":" not in text:
        if text in (named := space.named()):
            return named[text]
        if text in (elsewhere := space.named_elsewhere()):
            raise InputError(f"architecture {text!r} {elsewhere[text]}")
    of, _, listed = text.rpartition(":")
    if of and of != space.name:
        raise InputError(f"architecture {_short(text)!r} belongs to the space {of!r}, not to {space.name!r}")
    options = listed.split(",")
    taken: list[tuple[str, str]] = []

    def choose(name: str, offered: Sequence[str]) -> str:
        if len(options) == 1 and not {options[0]} & {*offered, *space.words}:
            raise _unknown(space, text)
        if len(taken) == len(options):
            raise InputError(f"architecture {_short(text)!r} ends early: {space.called(name)} is missing behind it")
        option, place = options[len(taken)], f"option {len(taken) + 1}, {space.called(name)}:"
        if option in space.words and option not in offered:
            raise InputError(f"{place} {option!r} does not fit there; what does: {', '.join(offered)}")
        if option not in offered:
            raise unknown(place, option, offered)
        taken.append((name, option))
        return option

    space.decide(choose)
    if len(taken) < len(options):
        raise InputError(f"architecture {_short(text)!r} has {len(options)} options, {len(taken)} make a network")
    return Architecture(space.name, tuple(taken))


def _unknown(space: "SearchSpace", text: str) -> InputError:
    names = [*space.named(), *space.named_elsewhere()]
    if names:
        return unknown(f"architecture of {space.name}:", text, names)
    return InputError(f"unknown architecture of {space.name}: {text!r}; none has a name: give an architecture's text")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}"
