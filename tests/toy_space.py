"""A small space whose decisions depend on each other: what FBNet, with its fixed list of layers, does not try."""

from search_spaces.architecture import Architecture
from search_spaces.block import Block, Shape
from search_spaces.operators import Classifier, ConvNormReLU, Identity, MBConv
from search_spaces.space import Choose, SearchSpace

KERNELS = ("k3", "k5")
EXPANSIONS = ("e1", "e2", "e3")


class ToySpace(SearchSpace):
    """Up to two layers. Each is left out or has a kernel, and the 5 x 5 ones have an expansion too.

    Networks: a layer is one of skip, k3, k5/e1, k5/e2, k5/e3, and a skip before a layer equals one after it.
    """

    name = "toy"
    searchable = 4

    def __init__(self, input_shape: Shape = (1, 6, 5), classes: int = 3) -> None:
        self.input_shape = input_shape
        self.classes = classes
        self._stem = ConvNormReLU(input_shape, 8, kernel=3, stride=2)
        self._head = Classifier(self._stem.out_shape, classes)

    def decide(self, choose: Choose) -> Architecture:
        layers: list[list[str]] = []
        for number in (1, 2):
            if choose(f"use{number}", ("yes", "no")) == "yes":
                options = [choose(f"kernel{number}", KERNELS)]
                if options == ["k5"]:
                    options.append(choose(f"expansion{number}", EXPANSIONS))
                layers.append(options)
        decisions: list[tuple[str, str]] = []
        for number in (1, 2):
            if number > len(layers):
                decisions.append((f"use{number}", "no"))
                continue
            names = (f"use{number}", f"kernel{number}", f"expansion{number}")
            decisions += zip(names, ("yes", *layers[number - 1]), strict=False)
        return Architecture(self.name, tuple(decisions))

    def blocks(self, architecture: Architecture) -> list[Block]:
        chosen = dict(architecture.decisions)
        body = [self._layer(chosen.get(f"kernel{number}"), chosen.get(f"expansion{number}", "e1")) for number in (1, 2)]
        return [self._stem, *body, self._head]

    def _layer(self, kernel: str | None, expansion: str) -> Block:
        shape = self._stem.out_shape
        if kernel is None:
            return Identity(shape)
        return MBConv(shape, shape[0], int(kernel[1:]), 1, int(expansion[1:]))

    def positions(self) -> list[list[Block]]:
        layer = [self._layer(None, ""), self._layer("k3", "e1"), *[self._layer("k5", e) for e in EXPANSIONS]]
        return [[self._stem], layer, layer, [self._head]]

    def descriptors(self, architecture: Architecture) -> list[float]:
        chosen = dict(architecture.decisions)
        values: list[float] = []
        for number in (1, 2):
            values += [float(chosen.get(f"{name}{number}", "x0")[1:] or 0) for name in ("kernel", "expansion")]
        return values

    def baseline_family(self) -> list[Architecture]:
        return [self.parse("yes,k3,no"), self.parse("yes,k3,yes,k3")]

    def named(self) -> dict[str, Architecture]:
        return {"smallest": Architecture(self.name, (("use1", "no"), ("use2", "no")))}
