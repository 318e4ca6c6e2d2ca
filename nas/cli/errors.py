"""From exceptions to exit codes and one line for the user."""

import errno
import os
import sys
import traceback
from collections.abc import Callable

import typer

from latency.measure import MeasuringFailed
from nas.delivery.export import ExportFailed
from nas.jobs import RunFailed
from nas.search.study import SearchFailed
from nas.training.train import TrainingDiverged
from search_spaces.errors import InputError

# Typer brings its own copy of click: the error of a wrong command line is the parent of the one that it exports.
_UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

# What is wrong with the place to write to, rather than with us.
_PLACE = {
    errno.ENOSPC,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}


def _say(text: str) -> None:
    print(f"nas: {' '.join(text.split())}", file=sys.stderr)


def exit_code(command: Callable[[], object]) -> int:
    """Run ``command`` and return the exit code that its end stands for."""
    try:
        code = command()
    except InputError as error:
        _say(str(error))
        return 2
    except _UsageError as error:
        message = error.format_message().replace("Value error, ", "")
        if message:  # without arguments, the help is the message
            _say(message)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except (RunFailed, SearchFailed, MeasuringFailed, ExportFailed, TrainingDiverged) as error:
        _say(str(error))
        return 1
    except BrokenPipeError:  # the reader has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _PLACE:
            traceback.print_exc()
            return 1
        _say(f"cannot write{f' {error.filename}' if error.filename else ''}: {error.strerror}")
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    if code == 130:  # Typer turns Ctrl-C into this code by itself
        _say("interrupted; the same command goes on from here")
    return code if isinstance(code, int) else 0
