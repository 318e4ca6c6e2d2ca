"""Spaces whose macro-architectures and published networks are data: a TOML file per family."""

import tomllib
from abc import abstractmethod
from functools import cache
from importlib import resources
from typing import Any

from search_spaces.block import Block, Shape
from search_spaces.chain import Candidate, Position, laid_out
from search_spaces.errors import InputError, unknown
from search_spaces.space import SearchSpace


@cache
def _definitions(family: str) -> dict[str, Any]:
    """Return the tables of ``family``.toml; what an entry is ``like`` is filled in, but for the ``sides`` it suits."""
    tables = tomllib.loads(resources.files("search_spaces").joinpath(f"{family}.toml").read_text())
    return {kind: _completed(tables[kind]) for kind in ("macro", "named")}


def _completed(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    done: dict[str, dict[str, Any]] = {}
    for name, own in rows.items():
        shared = done[own["like"]] if "like" in own else {}
        done[name] = {**{key: value for key, value in shared.items() if key != "sides"}, **own}
    return done


class MacroSpace(SearchSpace):
    """A space for images of ``input_shape`` in the macro-architecture ``macro``, or in the one that suits the images.

    Raises:
        InputError: there is no such macro-architecture, or none that takes images of this size.
    """

    family: str
    """Name of the space and of its TOML file."""
    shown: str
    """The macro-architecture that stands for the family where neither an input nor an architecture is given."""

    def __init__(self, input_shape: Shape, classes: int, macro: str | None = None) -> None:
        super().__init__(input_shape, classes)
        macro = macro or self.macro_for(input_shape)
        self._definition = self._macro(macro)
        self.name = f"{self.family}/{macro}"

    @classmethod
    def _macro(cls, name: str) -> dict[str, Any]:
        known = _definitions(cls.family)["macro"]
        if name not in known:
            raise unknown(f"{cls.family} macro-architecture", name, known)
        return dict(known[name])

    @classmethod
    def macro_for(cls, input_shape: Shape) -> str:
        """Return the macro-architecture that suits the image size; of several, that of the narrowest range.

        Raises:
            InputError: the image is smaller or larger than any macro-architecture takes.
        """
        side = min(input_shape[1:])
        ranges = {name: macro["sides"] for name, macro in _definitions(cls.family)["macro"].items() if "sides" in macro}
        suiting = {name: high - low for name, (low, high) in ranges.items() if low <= side <= high}
        if suiting:
            return min(suiting, key=lambda name: suiting[name])
        least, most = min(low for low, _ in ranges.values()), max(high for _, high in ranges.values())
        raise InputError(f"images of {side} px do not fit the {cls.family} space: it takes {least} to {most} px")

    @classmethod
    def macros(cls) -> list[str]:
        """Return the names of the macro-architectures."""
        return list(_definitions(cls.family)["macro"])

    @classmethod
    def default_shape(cls, macro: str | None = None) -> Shape:
        """Return the input shape (C, H, W) at which a macro-architecture is shown."""
        side = cls._macro(macro or cls.shown)["side"]
        return 3, side, side

    @classmethod
    def home_of(cls, text: str) -> str | None:
        """Return the macro-architecture that a named architecture or an architecture's text belongs to."""
        named = _definitions(cls.family)["named"]
        if text in named:
            return str(named[text]["macro"])
        space, _, _ = text.rpartition(":")
        return space.removeprefix(f"{cls.family}/") if space.startswith(f"{cls.family}/") else None

    def named_elsewhere(self) -> dict[str, str]:
        """Return the spaces of the family that its other named architectures belong to, as texts."""
        named = _definitions(self.family)["named"]
        homes = {name: f"{self.family}/{entry['macro']}" for name, entry in named.items()}
        return {
            name: f"belongs to the space {home!r}, not to {self.name!r}"
            for name, home in homes.items()
            if home != self.name
        }

    @abstractmethod
    def candidates(self) -> list[list[Candidate]]:
        """Return the candidates of each position of a network, from the image to the class scores."""

    def chain(self) -> list[Position] | None:
        """Return the positions of a network, with every shape that may come in."""
        return laid_out(self.input_shape, self.candidates())

    def positions(self) -> list[list[Block]]:
        """Return what may stand at each position, behind every shape that may come in."""
        chain = laid_out(self.input_shape, self.candidates())
        return [list(dict.fromkeys(block for row in each.blocks for block in row)) for each in chain]

    def _named_layers(self) -> dict[str, str]:
        """Return the layers, as text, of each published architecture of this macro-architecture."""
        named = _definitions(self.family)["named"]
        return {name: row["layers"] for name, row in named.items() if self.name == f"{self.family}/{row['macro']}"}
