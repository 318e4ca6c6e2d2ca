"""The networks that a search is told to start from (``--start``)."""

from collections.abc import Callable, Sequence

from nas.search.baselines import keeps
from nas.search.target import Target
from search_spaces.architecture import Architecture
from search_spaces.block import shape_text
from search_spaces.errors import InputError, unknown
from search_spaces.space import SearchSpace


def starting_networks(space: SearchSpace, names: Sequence[str]) -> dict[str, Architecture]:
    """Return the networks of a space by their names.

    Raises:
        InputError: the space has none of that name, at this input.
    """
    known, shape = space.named(), shape_text(space.input_shape)
    for name in names:
        if name in (elsewhere := space.named_elsewhere()):
            raise InputError(f"--start {name}: it {elsewhere[name]}; leave it out")
    if names and not known:
        raise InputError(f"--start {names[0]}: {space.name} has no named networks at {shape}; leave it out")
    for name in names:
        if name not in known:
            raise unknown(f"start for {space.name} at {shape}:", name, known)
    return {name: known[name] for name in names}


def starts_within(
    space: SearchSpace, targets: Sequence[Target], names: Sequence[str], say: Callable[[str], None]
) -> list[tuple[Architecture, str]]:
    """Return those of the named networks that keep every budget, and their origin; the others are told of.

    Raises:
        InputError: the space has none of that name, at this input.
    """
    found = []
    for name, architecture in starting_networks(space, names).items():
        over = [target for target in targets if not keeps(architecture, [target])]
        for target in over[:1]:
            say(
                f"start: {name} is left out, {target.predict_ms(architecture):.3g} ms {target.kind} on {target.device} "
                f"are over the budget of {target.budget_ms:g} ms"
            )
        if not over:
            found.append((architecture, "start"))
    return found
