"""The instant a run speaks from."""

from datetime import UTC, date, datetime

import pytest

from millrace.errors import InvalidInput
from millrace.instants import last_refresh
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


@pytest.mark.parametrize(("delay_days", "first"), [(7, date(2018, 9, 16)), (0, date(2018, 9, 23))])
def test_every_label_of_the_test_week_is_known_at_as_of(delay_days: int, first: date) -> None:
    assert first_test_day(datetime(2018, 9, 30, 12, tzinfo=UTC), delay_days) == first


@pytest.mark.parametrize(("per_day", "refresh"), [(1, "00:00"), (24, "13:00"), (96, "13:45"), (48, "13:30")])
def test_the_last_refresh_is_at_or_before_an_instant(per_day: int, refresh: str) -> None:
    instant = datetime(2018, 9, 30, 13, 59, 59, tzinfo=UTC)

    found = last_refresh(instant, per_day)

    assert found == datetime.fromisoformat(f"2018-09-30T{refresh}:00+00:00")
    assert last_refresh(found, per_day) == found


def test_the_end_of_the_last_day_can_be_named() -> None:
    assert resolve_as_of(SNAPSHOT, "end") == datetime(2018, 10, 1, tzinfo=UTC)
