"""The week nearest to a limit is the worst, whichever side the limit is on."""

from benchmarks.limits import distances
from millrace.judge.gates import Rule, Verdict


def week(ap, latency, stress):
    rules = [Rule("ap", ap, ">=", 0.5), Rule("latency", latency, "<=", 5.0), Rule("stress", stress, ">=", 0.1)]
    return Verdict("evaluation", tuple(rules))


def test_the_worst_week_is_the_one_nearest_to_its_limit():
    found = distances([week(0.7, 1.0, None), week(0.4, 2.0, None), week(0.8, 1.5, 0.3)])

    assert (found["ap"].worst, found["ap"].median, found["ap"].best, found["ap"].failed) == (0.4, 0.7, 0.8, 1)
    assert (found["latency"].worst, found["latency"].best, found["latency"].failed) == (2.0, 1.0, 0)


def test_what_was_not_measured_counts_as_failed():
    found = distances([week(0.7, 1.0, None), week(0.7, 1.0, 0.3)])

    assert (found["stress"].weeks, found["stress"].failed, found["stress"].worst) == (2, 1, 0.3)
