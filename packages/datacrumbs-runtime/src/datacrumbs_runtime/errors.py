"""The errors that a user can cause and act upon. Everything else is a bug and stays a traceback."""


class DatacrumbsError(Exception):
    """An expected failure: one sentence about what went wrong, and what the user can do.

    Attributes:
        hint: What the user can do about it, or None if nothing is known to help.
        exit_status: What the command ends with: 1 for a failure, 2 for wrong usage.
    """

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(DatacrumbsError):
    """The command line asks for something impossible."""

    exit_status = 2


class ConfigurationError(DatacrumbsError):
    """A configuration file or variable cannot be used."""


class ProbeFileError(DatacrumbsError):
    """A probe file cannot be read, or says something that no probe file may say."""


class SigningError(DatacrumbsError):
    """A probe file could not be signed, or its signature does not hold."""


class KernelError(DatacrumbsError):
    """The kernel lacks something or refused a request."""


class ProgramRefusedError(KernelError):
    """The kernel refused one of the programs.

    Attributes:
        program: Its name; empty: it was something else.
    """

    def __init__(self, message: str, program: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.program = program


class AttachError(KernelError):
    """A probe could not be attached."""


class TraceError(DatacrumbsError):
    """The trace file could not be written."""


class ProcessError(DatacrumbsError):
    """Another program failed or could not be started."""
