"""Which alarms become a retraining, as pure functions; a random history of requests never starts two at once."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ArtifactCorrupt
from serving.retraining_trigger import memory
from serving.retraining_trigger.core import DRIFT, PERSON, Policy, Request, State, due, ended, scheduled, started, take

Alarm = Callable[..., Request]
After = Callable[..., datetime]


def test_alarms_within_the_debounce_share_one_retraining(alarm: Alarm, after: After, policy: Policy) -> None:
    state, first = take(State(), alarm("a"), after(0), policy)
    state, second = take(state, alarm("b", kind=DRIFT), after(10), policy)

    early, job = due(state, after(29), policy), due(state, after(30), policy)

    assert (first, second) == ("accepted", "joined the retraining a that waits")
    assert early is None
    assert job is not None
    assert job.asked_by == ("a", "b")
    assert job.reason == "outcome: because of a; drift: because of b"


def test_the_same_event_counts_once(alarm: Alarm, after: After, policy: Policy) -> None:
    state, _ = take(State(), alarm("a"), after(0), policy)

    again, said = take(state, alarm("a"), after(1), policy)

    assert said == "seen before"
    assert again == state


def test_never_two_at_once_and_a_cool_down_in_the_events_own_time(alarm: Alarm, after: After, policy: Policy) -> None:
    state, _ = take(State(), alarm("a"), after(0), policy)
    state = started(state, due(state, after(40), policy), after(40))
    state, during = take(state, alarm("b", hours=1), after(50), policy)
    running_blocks = due(state, after(10_000), policy)
    state = ended(state, "promoted", "version 2", after(60))
    state, cooling = take(state, alarm("c", hours=23), after(61), policy)
    state, warm = take(state, alarm("d", hours=25), after(62), policy)

    assert during == "left alone: retraining a runs"
    assert running_blocks is None
    assert cooling.startswith("left alone: cooling down until 2018-09-02")
    assert warm == "accepted"
    assert state.history[-1]["outcome"] == "promoted"


def test_a_person_waits_for_no_cool_down_but_for_the_one_that_runs(alarm: Alarm, after: After, policy: Policy) -> None:
    state, _ = take(State(), alarm("a"), after(0), policy)
    state = started(state, due(state, after(30), policy), after(30))

    state, said = take(state, alarm("p", kind=PERSON), after(31), policy)

    assert said == "accepted: it waits for retraining a"
    assert due(state, after(40), policy) is None
    state = ended(state, "declined", "the champion stays", after(41))
    assert due(state, after(41), policy).id == "p"


def test_an_alarm_of_a_broken_feed_asks_for_nothing(alarm: Alarm, after: After, policy: Policy) -> None:
    state, said = take(State(), alarm("a", wanted=False), after(0), policy)

    assert said == "noted: it does not ask for a retraining"
    assert state.waiting is None


def test_the_schedule_asks_when_none_has_run_for_so_long(after: After, policy: Policy) -> None:
    weekly = replace(policy, every_days=7)
    state = State(last_ended_at=after(0))

    assert scheduled(state, after(hours=24 * 6.9), weekly) is None
    assert scheduled(state, after(hours=24 * 7), weekly).id == "schedule-2018-09-08"
    assert scheduled(state, after(hours=24 * 70), policy) is None


def test_the_state_is_the_same_after_a_restart(alarm: Alarm, after: After, policy: Policy, tmp_path: Path) -> None:
    state, _ = take(State(last_ended_at=after(0)), alarm("a"), after(0), policy)
    state = started(state, due(state, after(30), policy), after(30))
    state, _ = take(state, alarm("p", kind=PERSON), after(31), policy)
    state = replace(state, history=({"id": "old", "outcome": "failed"},))

    memory.write(tmp_path / "state.json", state)

    assert memory.read(tmp_path / "state.json") == state


def test_a_torn_state_is_an_error_and_no_beginning(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"seen": ["a"')

    with pytest.raises(ArtifactCorrupt, match="Move it away"):
        memory.read(tmp_path / "state.json")


EAGER = Policy(debounce_s=30, cooldown_h=0.01, every_days=0, timeout_h=6)
BEGIN = datetime(2018, 9, 1, tzinfo=UTC)
STEPS = st.tuples(st.sampled_from(["ask", "tick", "end"]), st.integers(0, 4), st.integers(0, 90))


@given(st.lists(STEPS, max_size=40))
def test_whatever_comes_one_runs_at_a_time_and_each_event_is_answered_once(steps: list[tuple[str, int, int]]) -> None:
    state, now, launched = State(), BEGIN, []
    for verb, number, seconds in steps:
        now += timedelta(seconds=seconds)
        if verb == "ask":
            kind = PERSON if number == 0 else DRIFT
            state, _ = take(state, Request(f"e{number}", kind, "", now), now, EAGER)
        elif verb == "tick" and (job := due(state, now, EAGER)):
            assert state.running is None
            state = started(state, job, now)
            launched.append(job)
        elif verb == "end":
            state = ended(state, "promoted", "", now)

    answered = [event for job in launched for event in job.asked_by]
    assert len(answered) == len(set(answered))
