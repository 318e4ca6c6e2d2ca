"""The one error type that is meant for the user."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong: one line that says what, where and what to do.

    The command line prints the message alone and exits with code 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a ``name`` that is not among ``known``, with the nearest known one."""
    names = {each.lower(): each for each in sorted(known)}
    nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {names[nearest[0]]!r}?" if nearest else f"known: {', '.join(names.values())}"
    return InputError(f"unknown {kind} {name!r}; {hint}")
