"""Known networks as derivations: those that the authors start searches from, and a hand-made family.

Source: [Ericsson2024], section 4 and appendix, and the authors' code.
"""

from search_spaces.block import Shape
from search_spaces.einspace.derivation import Branch, Module, Op, Route, sequence
from search_spaces.einspace.grammar import ADD, COL2IM, DOT, IDENTITY, NORM, POSITIONS, RELU, SCALED_DOT, SOFTMAX, SWAP


def convolution(kernel: int, stride: int, channels: int) -> Module:
    """Return im2col, a linear layer, col2im."""
    return Route(f"im2col_k{kernel}s{stride}", Op(f"linear{channels}"), COL2IM)


def _both(first: Module, second: Module) -> Module:
    return Branch("clone2", ADD, (first, second))


def _residual(stride: int, channels: int, kernel: int = 3) -> Module:
    """Return ResNet's basic block."""
    main = sequence(
        sequence(sequence(convolution(kernel, stride, channels), Op(NORM)), Op(RELU)),
        sequence(convolution(kernel, 1, channels), Op(NORM)),
    )
    shortcut = Op(IDENTITY) if stride == 1 else sequence(convolution(1, stride, channels), Op(NORM))
    return sequence(_both(main, shortcut), Op(RELU))


def _stem(channels: int, kernel: int = 3) -> Module:
    return sequence(sequence(convolution(kernel, 1, channels), Op(NORM)), Op(RELU))


def resnet18() -> Module:
    """Return ResNet18 without the max-pooling, its stem of two convolutions."""
    stages = [_residual(1, 64), _residual(1, 64)]
    for channels in (128, 256, 512):
        stages += [_residual(2, channels), _residual(1, channels)]
    return sequence(_stem(64), convolution(3, 2, 64), *stages)


def _wide_residual(stride: int, channels: int, projects: bool) -> Module:
    main = sequence(
        sequence(convolution(3, stride, channels), sequence(Op(NORM), Op(RELU))), convolution(3, 1, channels)
    )
    shortcut = convolution(1, stride, channels) if projects else Op(IDENTITY)
    return sequence(_both(main, shortcut), sequence(Op(NORM), Op(RELU)))


def wrn16_4() -> Module:
    """Return WRN16-4: wide residual blocks with their norms last."""
    stages = []
    for channels, stride in ((64, 1), (128, 2), (256, 2)):
        stages += [_wide_residual(stride, channels, True), _wide_residual(1, channels, False)]
    return sequence(_stem(16), *stages)


def _embedding() -> Module:
    """Return the projection of patches of 4 x 4 pixels, and the encoding of their positions."""
    return sequence(Route("im2col_k4s4", Op("linear512"), IDENTITY), Op(POSITIONS))


def _attention_head() -> Module:
    keys = Route(IDENTITY, Op("linear64"), SWAP)
    weights = sequence(Branch("clone2", SCALED_DOT, (Op("linear64"), keys)), Op(SOFTMAX))
    return Branch("clone2", DOT, (weights, Op("linear64")))


def vit() -> Module:
    """Return a vision transformer of four layers with four heads each, norms behind the sums."""
    attention = sequence(Branch("clone4", "concat4_d2", (_attention_head(),)), Op("linear512"))
    hidden = sequence(sequence(Op("linear512"), Op(RELU)), Op("linear512"))
    layer = sequence(
        sequence(_both(attention, Op(IDENTITY)), Op(NORM)),
        sequence(_both(hidden, Op(IDENTITY)), Op(NORM)),
    )
    return sequence(_embedding(), *[layer] * 4)


def mlp_mixer(shape: Shape) -> Module:
    """Return an MLP-Mixer of eight blocks for images of ``shape``: its widths follow the number of patches.

    Where four times that number is no published width, the module holds a function that the grammar does not have.
    """
    patches = (shape[1] // 4) * (shape[2] // 4)
    tokens = sequence(
        sequence(Route(SWAP, Op(f"linear{4 * patches}"), IDENTITY), Op(RELU)),
        Route(IDENTITY, Op(f"linear{patches}"), SWAP),
    )
    channels = sequence(sequence(Op("linear256"), Op(RELU)), Op("linear512"))
    block = _both(sequence(Op(NORM), sequence(tokens, channels)), Op(IDENTITY))
    return sequence(_embedding(), *[block] * 8)


def residual_family(shape: Shape) -> list[Module]:
    """Return residual networks of growing width and depth for images of ``shape``: what one would scale by hand."""
    side = min(shape[1:])
    kernel = 3 if side >= 3 else 1
    stages = 1 if side < 8 else 3
    family = []
    for width in (16, 32, 64):
        for depth in (1, 2):
            body = [
                _residual(2 if stage and not block else 1, width * 2**stage, kernel)
                for stage in range(stages)
                for block in range(depth)
            ]
            family.append(sequence(_stem(width, kernel), *body))
    return family
