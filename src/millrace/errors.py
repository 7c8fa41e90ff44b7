"""Every error Millrace raises on purpose.

Each says what, got, wanted and the next step, and subclasses the builtin a caller would expect:

    MillraceError
    ├── InvalidInput(ValueError)          a row, file, request or parameter is not what the contract says
    │   ├── SchemaMismatch                a column is missing, or has a type that cannot be read
    │   └── ConfigError                   a setting or a YAML file has a wrong key or value
    ├── NotFound(LookupError)             a snapshot, model version, entity or file that was named is not there
    ├── ArtifactCorrupt(OSError)          a stored file does not match the hash in its manifest
    ├── DiskFull(OSError)                 nothing more fits where something was to be written
    ├── NotWritable(OSError)              a file or folder is another user's, or on a disk that is read-only
    ├── GateBlocked(RuntimeError)         a gate said no; carries the verdict
    ├── AlreadyRunning(RuntimeError)      another process holds the lock on this piece of work
    ├── ModelFault(ArithmeticError)       a model answers what is no number
    └── Unavailable(RuntimeError)         a server, store or port does not answer
"""

from __future__ import annotations

from typing import Protocol


class Said(Protocol):
    """A gate's verdict, as far as an error tells it (`millrace.judge.gates.Verdict`)."""

    @property
    def passed(self) -> bool: ...

    def summary(self) -> str: ...


class MillraceError(Exception):
    """Base of every error raised on purpose; entry points print it without a traceback."""


class InvalidInput(MillraceError, ValueError):
    """A row, file, request or parameter is not what the contract says."""


class SchemaMismatch(InvalidInput):
    """A column is missing or has a type that cannot be read."""


class ConfigError(InvalidInput):
    """A setting or a YAML file has a wrong key or value."""


class NotFound(MillraceError, LookupError):
    """Something that was named (snapshot, model version, file) is not there."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ArtifactCorrupt(MillraceError, OSError):
    """A stored file does not match the hash in its manifest."""


class DiskFull(MillraceError, OSError):
    """Nothing more fits where something was to be written."""


class NotWritable(MillraceError, OSError):
    """A file or folder belongs to another user, or lies on a disk that is read-only."""


class AlreadyRunning(MillraceError, RuntimeError):
    """Another process holds the lock on this piece of work."""


class Unavailable(MillraceError, RuntimeError):
    """A server, store or port does not answer."""


class ModelFault(MillraceError, ArithmeticError):
    """A model answers what is no number, to inputs that are."""


class GateBlocked(MillraceError, RuntimeError):
    """One or more gates said no. `verdicts` holds every rule, its value and its limit."""

    def __init__(self, *verdicts: Said) -> None:
        self.verdicts = verdicts
        super().__init__("\n".join(verdict.summary() for verdict in verdicts if not verdict.passed))
