"""From exceptions to exit codes and one line for the user."""

import errno
import sys
import traceback
from collections.abc import Callable

import click
import typer

from latency.measure import MeasuringFailed
from nas.delivery.export import ExportFailed
from nas.run import RunFailed
from nas.search.study import SearchFailed
from nas.training.train import TrainingDiverged
from search_spaces.errors import InputError

# What is wrong with the place to write to, rather than with us.
_PLACE = {
    errno.ENOSPC,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}


def _say(text: str) -> None:
    print(f"nas: {' '.join(text.split())}", file=sys.stderr)


def exit_code(command: Callable[[], object]) -> int:
    """Run ``command`` and return the exit code that its end stands for."""
    try:
        command()
    except InputError as error:
        _say(str(error))
        return 2
    except click.UsageError as error:
        _say(error.format_message())
        return 2
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; the same command goes on from here")
        return 130
    except (RunFailed, SearchFailed, MeasuringFailed, ExportFailed, TrainingDiverged) as error:
        _say(str(error))
        return 1
    except (click.exceptions.Exit, typer.Exit) as error:
        return error.exit_code
    except OSError as error:
        if error.errno not in _PLACE:
            traceback.print_exc()
            return 1
        _say(f"cannot write {error.filename or 'a file'}: {error.strerror}")
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    return 0
