"""The journal of a study: Optuna's, brought to the disk once per trial instead of once per line."""

import json
import os
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState


class TrialJournal(JournalFileBackend):
    """Appends at once, so that nothing is lost with the process, and waits for the disk when a trial ends.

    A trial writes some fifteen lines, and a disk takes milliseconds for each that it is waited for. What a power cut
    may take are lines of trials that were under way, and those are run again.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append one line per log."""
        with get_lock_file(self._lock), open(self._file_path, "ab") as file:
            file.write("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())
            file.flush()
            if any(map(_ends_a_trial, logs)):
                os.fsync(file.fileno())


def _ends_a_trial(log: dict[str, Any]) -> bool:
    if log["op_code"] == JournalOperation.CREATE_STUDY:
        return True
    return log["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES and TrialState(log["state"]).is_finished()
