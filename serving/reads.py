"""What a model version reads: which features, from which generation of state; how transformer and predictor agree.

A request to the predictor names the generations that its inputs were made of (STATES), and brings the inputs of each:
tensors of the first by their names, of the second as `features@1`, and so on. The predictor takes its own and says in
its answer which that was; where none is its own it says what it reads (OTHER_STATE), and is asked again. So the split
between two revisions stays where it is, behind the transformer, and neither ever scores inputs made for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from millrace.errors import MillraceError

STATES: Final = b"x-millrace-states"
"""Generations, separated by commas; absent from a client who brings inputs of his own."""
GENERATION, FEATURE_SERVICE = "generation", "feature_service"
"""Parameters of a predictor's answer, and keys of what it says instead of one."""


@dataclass(frozen=True, slots=True)
class Reads:
    """Of one model version."""

    feature_service: str
    generation: str
    """Empty of a model that no `promote` of this release has let in."""

    @classmethod
    def found_in(cls, document: Mapping[str, Any]) -> Reads:
        """From an answer's parameters, or a refusal."""
        return cls(str(document.get(FEATURE_SERVICE, "")), str(document.get(GENERATION, "")))

    def as_parameters(self) -> dict[str, str]:
        """The same for an answer's parameters, or a refusal: a generation only where there is one."""
        generation = {GENERATION: self.generation} if self.generation else {}
        return {FEATURE_SERVICE: self.feature_service, **generation}


UNTOLD: Final = Reads("", "")
"""Of an answer that does not say."""


OTHER_STATE: Final = 300
"""HTTP status of a predictor that asks for other inputs: Multiple Choices.

Who counts answers by their class, and rolls back a canary that refuses what the stable revision takes, sees neither an
error nor a refusal in it."""


class OtherState(MillraceError, LookupError):
    """The model reads another generation of state than any that inputs were brought of."""

    def __init__(self, reads: Reads, version: str = "") -> None:
        self.reads = reads
        self.details = reads.as_parameters()
        named = f"model version {version}" if version else "the model"
        super().__init__(
            f"{named} reads {reads.feature_service} from generation {reads.generation or '(none)'} of state; "
            "the request brings inputs of others"
        )

    def __str__(self) -> str:
        return str(self.args[0])


def place_of(generation: str, named: bytes | None) -> int | None:
    """Which of the named generations is this one; None where none are named. Raises LookupError for none of them."""
    if named is None:
        return None
    names = [name.strip() for name in named.decode("latin-1").split(",")]
    if not generation or generation not in names:
        raise LookupError(generation)
    return names.index(generation)


def suffix(place: int) -> str:
    """Of the tensors' names, of inputs that are the first, second, … of a request."""
    return f"@{place}" if place else ""
