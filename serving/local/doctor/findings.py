"""What a check says: something that is wrong, with the command that mends it, or something to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    about: str
    """The check that found it."""
    what: str
    """What is there, what was wanted."""
    mend: str
    """A command, or what to do."""
    wrong: bool = True
    """False: nothing is broken, but somebody should know."""

    def __str__(self) -> str:
        mark = "WRONG" if self.wrong else "note "
        return f"{mark} {self.about}: {self.what}. {self.mend}"
