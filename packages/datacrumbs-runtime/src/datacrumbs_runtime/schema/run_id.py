"""Run ids: what tells the runs of a node apart, in names of files, units and traces."""

import re
from collections.abc import Mapping
from datetime import datetime

from datacrumbs_runtime.errors import UsageError

MAX_CHARACTERS = 64
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_run_id(text: str, where: str = "run id") -> str:
    """Return a run id that may become part of a file name and of a unit's name.

    Raises:
        UsageError: It is empty, too long, or has other characters than A-Z a-z 0-9 . _ -
    """
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"{where}: longer than {MAX_CHARACTERS} characters")
    if not _RUN_ID.fullmatch(text):
        raise UsageError(
            f"{where}: {text!r}: not a run id",
            hint="letters, digits, dot, underscore and hyphen; a letter or digit first",
        )
    return text


def choose_run_id(
    argument: str | None, environment: Mapping[str, str], job_id_variable: str, now: datetime
) -> str:
    """Return the id of a run: the argument, else the job's id, else the time.

    Args:
        argument: From the command line; None: not given.
        environment: Where the job's id is.
        job_id_variable: Its name there; empty: there is none.
        now: Local time.

    Raises:
        UsageError: Argument or job id cannot be a run id.
    """
    if argument is not None:
        return check_run_id(argument)
    job_id = environment.get(job_id_variable, "") if job_id_variable else ""
    if job_id:
        return check_run_id(job_id, job_id_variable)
    return now.strftime("%Y%m%d%H%M%S")
