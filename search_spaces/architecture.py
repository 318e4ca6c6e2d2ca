"""The architecture: a short printable value that names one network of a space."""

import hashlib
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Architecture:
    """The decisions that make one network: (name, option) pairs in the order in which they are taken.

    Spaces return canonical architectures: equal networks are equal values with equal ids.
    """

    space: str
    decisions: tuple[tuple[str, str], ...]

    @cached_property
    def text(self) -> str:
        """``space:option,option,...``; the space's ``parse`` reads it back."""
        return f"{self.space}:{','.join(option for _, option in self.decisions)}"

    @cached_property
    def id(self) -> str:
        """Ten hexadecimal digits that stay the same for the same network."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:10]

    def __str__(self) -> str:
        return self.text
