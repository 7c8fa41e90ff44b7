"""The instant a run speaks from."""

from datetime import UTC, date, datetime

import pytest

from millrace.errors import InvalidInput
from millrace.lake.horizon import resolve_as_of
from millrace.lake.horizon import test_start as first_test_day
from millrace.lake.manifest import Manifest

SNAPSHOT = Manifest(
    kind="snapshot", id="a", workload="fraud", uri=".", facts={"first_day": "2018-04-01", "last_day": "2018-09-30"}
)


def test_the_default_is_the_start_of_the_last_day() -> None:
    assert resolve_as_of(SNAPSHOT) == datetime(2018, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2018-09-01", "2018-09-01T00:00:00Z", "2018-09-01T02:00:00+02:00"])
def test_an_instant_is_read_with_and_without_an_offset(text: str) -> None:
    assert resolve_as_of(SNAPSHOT, text) == datetime(2018, 9, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2018-04-01", "2018-10-02", "yesterday"])
def test_an_instant_outside_the_data_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="as_of is"):
        resolve_as_of(SNAPSHOT, text)


def test_every_label_of_the_test_week_is_known_at_as_of() -> None:
    assert first_test_day(datetime(2018, 9, 30, tzinfo=UTC)) == date(2018, 9, 16)


def test_the_end_of_the_last_day_can_be_named() -> None:
    assert resolve_as_of(SNAPSHOT, "end") == datetime(2018, 10, 1, tzinfo=UTC)
