"""What `python -m serving.local` makes of a command line, and which manifests a runtime follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.errors import InvalidInput
from millrace.installed import load
from serving.local.__main__ import fields_of
from serving.local.commands import _follows, sample
from serving.local.state import LocalState, Place

FRAUD = load("fraud")


def test_without_fields_the_workloads_example_is_asked() -> None:
    event = sample(FRAUD, {})

    assert event.items() >= FRAUD.exchange.EXAMPLE.items()
    assert isinstance(event["transaction_id"], int)


def test_a_field_of_the_command_line_replaces_the_examples() -> None:
    given = fields_of(["amount=12.5", "customer_id=7", "transaction_id=9"], FRAUD)

    event = sample(FRAUD, given)

    assert (event["amount"], event["customer_id"], event["transaction_id"]) == (12.5, "7", 9)


@pytest.mark.parametrize(
    ("pair", "named"), [("amount", "FIELD=VALUE"), ("colour=red", "customer_id"), ("amount=x", "number")]
)
def test_what_is_no_field_is_refused_by_name(pair: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        fields_of([pair], FRAUD)


@pytest.mark.parametrize(
    ("started", "asked", "follows"),
    [
        ("home/serving/one.yaml", "home/serving/one.yaml", True),
        ("home/serving/one.yaml", "home/serving/other.yaml", True),
        ("home/serving/one.yaml", "elsewhere/one.yaml", False),
        ("elsewhere/one.yaml", "home/serving/one.yaml", False),
        ("elsewhere/one.yaml", "elsewhere/one.yaml", True),
        ("elsewhere/one.yaml", "elsewhere/other.yaml", False),
    ],
)
def test_services_of_a_home_are_followed_beside_each_other(
    started: str, asked: str, follows: bool, tmp_path: Path
) -> None:
    running = LocalState(1, str(tmp_path / started), "", "one", "1")

    assert _follows(running, tmp_path / asked, Place(tmp_path / "home")) == follows
