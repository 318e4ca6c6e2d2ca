"""The command line: ``nas``. Exit codes: 0, 2 (bad input), 130 (interrupted), 1 (anything else)."""

import sys

# Importing the modules registers their commands.
from nas.cli import measure, search, spaces, supernet, tables, train  # noqa: F401
from nas.cli.app import app
from nas.cli.errors import exit_code


def main() -> None:
    """Run ``nas`` with the arguments of this process."""
    sys.exit(exit_code(lambda: app(standalone_mode=False)))
