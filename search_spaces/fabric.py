"""Where a network's layers may run: scales that halve the resolution from one to the next, and paths through them.

Source: BossNAS (ICCV 2021, arXiv 2103.12424) and its authors' code: layers go down the scales of a fabric, never up,
one scale at a time. A network of stages is the case in which each layer has one scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

START = -1
"""Before the first scale, at its resolution: where a stem has channels of its own."""


@dataclass(frozen=True)
class Fabric:
    """The scales that each layer may run at: ``bounds`` are the finest and the coarsest (0 is the first scale).

    ``start`` is the scale that the stem ends at, or ``START``.
    """

    bounds: tuple[tuple[int, int], ...]
    start: int = START

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], start: int = START) -> "Fabric":
        """Return the fabric of rows [layers, finest scale, coarsest scale], counted from 1."""
        return cls(tuple((low - 1, high - 1) for layers, low, high in rows for _ in range(layers)), start)

    @cached_property
    def _open(self) -> list[frozenset[int]]:
        """For each layer the scales from which the layers behind it can go on."""
        found: list[frozenset[int]] = []
        after = frozenset(range(self.bounds[-1][1] + 1))
        for low, high in reversed(self.bounds):
            here = range(low, high + 1)
            found.append(frozenset(scale for scale in here if {scale, scale + 1} & after))
            after = found[-1]
        return found[::-1]

    def following(self, layer: int, scale: int) -> list[int]:
        """Return the scales that a layer may run at behind one at ``scale``, the finest first."""
        fine = max(scale, 0)
        return [each for each in (fine, fine + 1) if each in self._open[layer]]

    def holds(self, layer: int, scale: int) -> bool:
        """Tell whether a layer may run at a scale."""
        low, high = self.bounds[layer]
        return low <= scale <= high

    @property
    def fixed(self) -> bool:
        """Whether each layer has one scale."""
        return all(low == high for low, high in self.bounds)

    def paths(self, options: Mapping[int, int], begins: Sequence[int] | None = None) -> int:
        """Return the number of paths through all layers with so many ``options`` at each scale.

        ``begins`` are the scales of the first layer, those behind the stem where none are given.
        """
        first = self.following(0, self.start) if begins is None else begins
        counts = {scale: options[scale] for scale in first if scale in self._open[0]}
        for layer in range(1, len(self.bounds)):
            after: dict[int, int] = {}
            for scale, count in counts.items():
                for each in self.following(layer, scale):
                    after[each] = after.get(each, 0) + count * options[each]
            counts = after
        return sum(counts.values())
