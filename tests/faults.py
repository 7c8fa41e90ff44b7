"""What the contract tests of every gate say of a model or of data with a fault, and of those without one."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from millrace.errors import GateBlocked
from millrace.judge.gates import Verdict, family


def assert_blocked_by(verdict: Verdict, rule: str) -> None:
    """The rule failed, and the gate's message names it."""
    assert rule in {failure.name for failure in verdict.failures}, [str(r) for r in verdict.rules if r.name == rule]
    with pytest.raises(GateBlocked, match=rule.replace("[", r"\[")):
        verdict.require()


def assert_every_rule_has_a_fault(verdict: Verdict, faults: Collection[str], each: Collection[str]) -> None:
    """The verdict passed, and of all its rules a fault is known: of families in `each`, for every single rule."""
    verdict.require()
    assert {family(rule.name) for rule in verdict.rules} == {family(name) for name in faults}
    assert {rule.name for rule in verdict.rules if family(rule.name) in each} <= set(faults)
