"""The rollout policy: what each kind of canary leads to, and what holds whatever is observed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from millrace.rollout.check import wilson
from millrace.rollout.checks import checks
from millrace.rollout.decision import Action, Decision, Phase, State, decide
from millrace.rollout.observations import Alerts, Errors, Histogram, Observations, Observed
from millrace.rollout.policy import RolloutPolicy
from millrace.rollout.scores import score_shift

BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
SCORES = (0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 1.0)
POLICY = RolloutPolicy(min_sample=100, min_step_s=10, max_step_s=100, max_start_s=50)


def observed(requests: int = 200, **changes: object) -> Observed:
    """A healthy revision: 3 ms at the 95th percentile, scores mostly small, 5 % reviewed."""
    spread = (0.5, 0.3, 0.15, 0.05, 0, 0, 0, 0)
    healthy = Observed(
        requests=requests,
        latency_ms=Histogram(BOUNDS, tuple(requests * share for share in spread)),
        scores=Histogram(SCORES, tuple(requests * share for share in (0.6, 0.2, 0.1, 0.04, 0.03, 0.02, 0.01, 0))),
        reviewed=requests * 0.05,
    )
    return replace(healthy, **changes)


SLOW = {"latency_ms": Histogram(BOUNDS, (0, 0, 0, 10, 170, 20, 0, 0))}
FAILING = {"errors": 40, "scores": Histogram(SCORES, (0,) * 8), "reviewed": 0}
SKEWED = {"scores": Histogram(SCORES, (0, 0, 20, 60, 60, 40, 20, 0))}
FLAGGING = {"reviewed": 120}
IMPRECISE = {"labels": Alerts(100, 20)}
WORSE = {"labels": Errors(400, 4.2, 16.0), "reviewed": None}
FEW = Histogram(SCORES, (6, 2, 1, 1, 0, 0, 0, 0))
UNSOUND = {"requests": 1, "unsound": 1, "scores": Histogram(SCORES, (0,) * 8)}
DYING = {"requests": 0, "deaths": 2, "last_death": "by SIGKILL"}
GREEDY = {"requests": 0, "memory_mb": 700.0}
CONSTANT = {"requests": 10, "scores": FEW, "repeated": 9}
REFUSING = {"requests": 4, "refused": 4}
GIVEN_UP_ON = {"requests": 3, "errors": 3}


def at(percent: int = 10, now: float = 20.0, **changes: object) -> State:
    return replace(State(percent, began=0.0, step_began=0.0), **changes)


def test_a_healthy_canary_goes_from_step_to_step_until_it_is_promoted():
    state, path = at(), []
    for _ in POLICY.steps:
        decision = decide(state, Observations(observed(), observed()), POLICY, state.step_began + 20)
        path.append((decision.action, decision.percent))
        if decision.action is Action.PROMOTE:
            break
        state = replace(state, percent=decision.percent, step_began=state.step_began + 20)

    assert path == [(Action.ADVANCE, 50), (Action.PROMOTE, 100)]


@pytest.mark.parametrize(
    ("canary", "stable", "reason"),
    [
        (SLOW, {}, "latency p95 ms"),
        (FAILING, {}, "error rate"),
        (SKEWED, {}, "score PSI"),
        (FLAGGING, {}, "decision rate ratio"),
        ({"reviewed": 0}, {"reviewed": 60}, "decision rate ratio"),
        (IMPRECISE, {"labels": Alerts(100, 80)}, "alert precision drop"),
        (WORSE, {"labels": Errors(400, 3.0, 9.0), "reviewed": None}, "error ratio"),
        (UNSOUND, {}, "answers that are no scores 1 (limit 0)"),
        (DYING, {}, "ends of its processes 2 (limit 1, by SIGKILL)"),
        (GREEDY, {"memory_mb": 200.0}, "memory MB 700 (limit 456, stable 200)"),
        (CONSTANT, {"repeated": 4}, "share of equal scores"),
        (REFUSING, {}, "refusals above stable"),
        (GIVEN_UP_ON, {}, "error rate above stable"),
        ({"labels": Alerts(10, 0)}, {"labels": Alerts(90, 80)}, "alert precision drop"),
    ],
)
def test_a_canary_beyond_a_limit_is_rolled_back_and_the_limit_is_named(canary, stable, reason):
    decision = decide(at(), Observations(observed(**stable), observed(**canary)), POLICY, 1.0)

    assert (decision.action, decision.percent) == (Action.ROLL_BACK, 0)
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("canary", "stable"),
    [
        ({"unsound": 1}, {"unsound": 2}),
        ({"deaths": 1}, {}),
        ({"deaths": 3}, {"deaths": 3}),
        ({"memory_mb": 400.0}, {"memory_mb": 200.0}),
        ({"repeated": 190}, {"repeated": 180}),
        ({"refused": 20}, {"refused": 20}),
        ({"requests": 200, "errors": 2}, {"errors": 2}),
    ],
)
def test_what_the_stable_revision_does_as_well_ends_no_rollout(canary, stable):
    decision = decide(at(), Observations(observed(**stable), observed(**canary)), POLICY, 1.0)

    assert decision.action is not Action.ROLL_BACK, decision


@pytest.mark.parametrize(
    ("labels", "action"),
    [
        ((Alerts(100, 80), Alerts(40, 33)), Action.ADVANCE),
        ((Alerts(100, 80), Alerts(40, 8)), Action.ROLL_BACK),
        ((Alerts(100, 80), Alerts(20, 17)), Action.ROLL_BACK),
        ((Errors(400, 3.0, 9.0), Errors(400, 2.9, 9.0)), Action.ADVANCE),
        ((None, None), Action.ROLL_BACK),
    ],
)
def test_labels_decide_where_scores_are_spread_otherwise(labels, action):
    stable, canary = observed(labels=labels[0]), observed(labels=labels[1], **SKEWED)

    decision = decide(at(), Observations(stable, canary), POLICY, 20.0)

    assert decision.action is action
    assert ("labels say that it is right" in decision.reason) == (action is Action.ADVANCE)


def test_labels_do_not_excuse_answers_that_are_none():
    right = {"labels": Alerts(100, 80)}

    decision = decide(at(), Observations(observed(**right), observed(**right, **UNSOUND)), POLICY, 20.0)

    assert decision.action is Action.ROLL_BACK


def test_too_little_data_waits_and_says_for_what():
    decision = decide(at(), Observations(observed(), observed(99)), POLICY, 50.0)

    assert decision == Decision(Action.HOLD, 10, "99 of 100 requests of the canary revision")


def test_an_error_among_few_requests_is_no_breach_and_no_pass():
    decision = decide(at(), Observations(observed(), observed(100, errors=2)), POLICY, 50.0)

    assert decision.action is Action.HOLD
    assert "error rate 0.02 (limit 0.01)" in decision.reason


def test_a_step_that_cannot_be_decided_in_time_is_rolled_back():
    decision = decide(at(), Observations(observed(), observed(99)), POLICY, 101.0)

    assert decision.action is Action.ROLL_BACK
    assert "not decided within 100 s" in decision.reason


def test_a_canary_that_never_starts_is_rolled_back():
    observations = Observations(observed(), Observed(), canary_ready=False)

    assert decide(at(), observations, POLICY, 49.0).action is Action.HOLD
    assert decide(at(), observations, POLICY, 51.0).action is Action.ROLL_BACK


def test_labels_that_are_not_in_are_no_reason_to_wait():
    assert "alert precision" not in " ".join(map(str, checks(Observations(observed(), observed()), POLICY)))


def test_alike_samples_are_hardly_ever_told_apart_and_a_shift_is():
    random.seed(1)

    def sample(n: int, shift: float = 0.0) -> Histogram:
        counts = [0.0] * 8
        for _ in range(n):
            score = min(random.betavariate(0.5, 9) + shift, 1.0)
            counts[next(i for i, bound in enumerate(SCORES) if score <= bound)] += 1
        return Histogram(SCORES, tuple(counts))

    def breached(shift: float) -> bool:
        index, by_chance = score_shift(sample(900), sample(100, shift))
        return index > max(POLICY.max_score_psi, by_chance)

    assert sum(breached(0.0) for _ in range(200)) <= 2
    assert sum(breached(0.1) for _ in range(50)) == 50


def test_quantiles_and_shares_of_a_histogram():
    histogram = Histogram((1.0, 2.0, 4.0), (10, 80, 10, 0))

    assert histogram.quantile(0.5) == pytest.approx(1.5)
    assert histogram.quantile(0.95) == pytest.approx(3.0)
    assert histogram.above(3.0) == pytest.approx(5.0)
    assert Histogram((1.0,), (0, 5)).quantile(0.5) == 1.0
    assert Histogram((1.0,), (0, 5)).above(7.0) == 5


def test_the_interval_of_a_proportion_covers_it():
    low, high = wilson(5, 100)

    assert 0 < low < 0.05 < high < 0.15
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("steps", [(), (100,), (10, 50), (50, 10, 100), (10, 10, 100), (0, 100)])
def test_steps_that_do_not_grow_to_100_are_refused(steps):
    with pytest.raises(ValidationError):
        RolloutPolicy(steps=steps)


counts = st.integers(0, 2000).map(float)


def histograms(bounds: tuple[float, ...]) -> st.SearchStrategy[Histogram]:
    size = len(bounds) + 1
    return st.lists(counts, min_size=size, max_size=size).map(lambda found: Histogram(bounds, tuple(found)))


@st.composite
def revisions(draw: st.DrawFn) -> Observed:
    scores = draw(histograms(SCORES))
    requests, labelled = draw(counts), draw(counts)
    return Observed(
        requests=requests,
        errors=draw(st.floats(0, requests)),
        refused=draw(st.floats(0, requests)),
        unsound=draw(st.just(0.0) | counts),
        latency_ms=draw(histograms(BOUNDS)),
        scores=scores,
        repeated=draw(counts),
        deaths=draw(st.integers(0, 3).map(float)),
        memory_mb=draw(st.none() | counts),
        reviewed=draw(st.none() | st.floats(0, scores.total)),
        labels=draw(
            st.none()
            | st.just(Errors(labelled, draw(counts), draw(counts)))
            | st.floats(0, labelled).map(lambda true: Alerts(labelled, true))
        ),
    )


healthy = st.integers(0, 500).map(observed)
observations = st.builds(Observations, revisions() | healthy, revisions() | healthy, st.booleans())
policies = st.builds(
    RolloutPolicy,
    steps=st.sets(st.integers(1, 99), min_size=1, max_size=4).map(lambda found: (*sorted(found), 100)),
    min_sample=st.integers(1, 1000),
    min_step_s=st.floats(0, 50),
    max_step_s=st.floats(1, 100),
    max_start_s=st.floats(1, 100),
)
states = st.builds(State, st.integers(1, 99), st.just(0.0), st.floats(0, 100))


@given(states, observations, policies, st.floats(0, 1000))
def test_it_never_goes_forward_on_too_little_data(state, seen, policy, now):
    decision = decide(state, seen, policy, now)

    if decision.action in (Action.ADVANCE, Action.PROMOTE):
        least = min(seen.canary.requests, seen.stable.requests, seen.canary.scores.total, seen.stable.scores.total)
        assert least >= policy.min_sample
        assert now - state.step_began >= policy.min_step_s
        assert all(check.passed for check in checks(seen, policy))


@given(states, observations, policies, st.floats(-100, 1000))
def test_a_breach_rolls_back_whatever_else_is_true(state, seen, policy, now):
    if any(check.breached for check in checks(seen, policy)):
        assert decide(state, seen, policy, now).action is Action.ROLL_BACK


@settings(max_examples=200)
@given(st.lists(observations, min_size=1, max_size=12), policies, st.floats(0.5, 60))
def test_traffic_only_grows_until_it_ends_or_drops_to_nothing_once_and_it_ends_in_time(seen, policy, every_s):
    state, now, path, ended = State(policy.steps[0], 0.0, 0.0), 0.0, [], None
    for turn in range(int(policy.max_duration_s / every_s) + 3):
        now += every_s
        decision = decide(state, seen[turn % len(seen)], policy, now)
        path.append(decision.percent)
        if decision.action is Action.HOLD:
            continue
        phase = {Action.PROMOTE: Phase.PROMOTED, Action.ROLL_BACK: Phase.ROLLED_BACK}.get(
            decision.action, Phase.PROGRESSING
        )
        if phase is not Phase.PROGRESSING and ended is None:
            ended = now
        state = State(decision.percent, 0.0, now, phase)

    grown = path[: path.index(0)] if 0 in path else path
    assert grown == sorted(grown)
    assert set(path[len(grown) :]) <= {0}
    assert ended is not None
    assert ended <= policy.max_duration_s + every_s


@given(observations, policies, st.sampled_from([Phase.PROMOTED, Phase.ROLLED_BACK]), st.floats(0, 1e6))
def test_a_rollout_that_has_ended_stays_so(seen, policy, phase, now):
    assert decide(State(0, 0.0, 0.0, phase), seen, policy, now).action is Action.HOLD


def test_a_quantity_is_judged_without_decisions_and_by_its_error_once_labels_are_in():
    alike = {"labels": Errors(400, 3.1, 9.0), "reviewed": None}
    few = {"labels": Errors(20, 9.0, 9.0), "reviewed": None}
    stable = observed(labels=Errors(400, 3.0, 9.0), reviewed=None)

    names = [
        {check.name for check in checks(Observations(stable, observed(**canary)), POLICY)} for canary in (alike, few)
    ]

    of_requests = {"error rate", "error rate above stable", "refusals above stable", "latency p95 ms"}
    assert names[0] == of_requests | {"share of equal scores above stable", "score PSI", "error ratio"}
    assert names[1] == names[0] - {"error ratio"}
    assert decide(at(), Observations(stable, observed(**alike)), POLICY, 20.0).action is Action.ADVANCE
