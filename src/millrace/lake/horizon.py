"""The instant a run speaks from, and the windows that follow from it. One place, so that no step disagrees.

`as_of` is an instant; nothing at or after it is used to train, judge or fill the online store. A test window must have
all its labels known at `as_of`, and the labels of the training days must be known when the test window starts. How long
a label takes is the workload's (`Label.delay_days`).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from millrace.errors import InvalidInput
from millrace.instants import start_of
from millrace.lake.manifest import Manifest

END = "end"
"""As an `as_of`: the end of the last day. For a live store, to which that day's events were pushed already."""
TEST_DAYS = 7
"""Length of a test window, days."""


def resolve_as_of(artifact: Manifest, text: str = "") -> datetime:
    """The instant named by `text` (ISO 8601, UTC when naive, or END); empty means the start of the artifact's last day.

    Raises InvalidInput when `text` is no timestamp, or lies outside (first day, last day + 1].
    """
    first = date.fromisoformat(artifact.facts["first_day"])
    last = date.fromisoformat(artifact.facts["last_day"])
    if not text:
        return start_of(last)
    if text == END:
        return start_of(last + timedelta(days=1))

    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"as_of is {text!r}; wanted an ISO 8601 time such as {last}T00:00:00Z") from error

    instant = instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    if not start_of(first) < instant <= start_of(last + timedelta(days=1)):
        raise InvalidInput(f"as_of is {instant.isoformat()}; the {artifact.kind} holds {first} … {last}")
    return instant


def test_start(as_of: datetime, delay_days: int) -> date:
    """First day of the latest test window whose labels, `delay_days` after their events, are all known at `as_of`."""
    return as_of.date() - timedelta(days=delay_days + TEST_DAYS)
