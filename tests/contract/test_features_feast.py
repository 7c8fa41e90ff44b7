"""What Feast is told and what the code reads are the same names, from one place."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from fraud import features as f
from millrace.workload import load

REPOSITORY = Path(__file__).parent.parent.parent / "feature_repo"


@pytest.fixture(scope="module")
def defined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    things = runpy.run_path(str(REPOSITORY / "definitions.py"))["define"](load("fraud"), home)
    return {thing.name: thing for thing in things}


def test_the_views_hold_the_fields_of_the_states(defined: dict[str, Any]) -> None:
    fields = {name: {field.name for field in defined[name].schema} for name in ("customer_state", "terminal_state")}

    assert fields["customer_state"] - {"customer_id"} == set(f.CUSTOMER_STATE_FIELDS)
    assert fields["terminal_state"] - {"terminal_id"} == set(f.TERMINAL_STATE_FIELDS)


def test_the_service_is_the_versioned_one_and_holds_both_views(defined: dict[str, Any]) -> None:
    service = defined[f.FEATURE_SERVICE]

    assert {projection.name for projection in service.feature_view_projections} == {"customer_state", "terminal_state"}


def test_customer_states_can_be_pushed(defined: dict[str, Any]) -> None:
    assert defined["customer_state"].stream_source.name == "customer_state_push"


def test_every_path_in_the_repository_is_below_the_home(defined: dict[str, Any]) -> None:
    sources = [defined[name].batch_source.path for name in ("customer_state", "terminal_state")]
    configuration = (REPOSITORY / "feature_store.yaml").read_text()

    assert all(Path(path).is_absolute() and "/feast/fraud/sources/" in path for path in sources)
    assert configuration.count("path:") == configuration.count("${MILLRACE_HOME}/feast/${MILLRACE_WORKLOAD}/") == 2
