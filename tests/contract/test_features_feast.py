"""What Feast is told and what the code reads are the same names, from one place."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast import ValueType

from fraud import features as f
from fraud import formulas
from millrace.errors import ConfigError
from millrace.fields import View
from millrace.installed import Workload, load

REPOSITORY = Path(__file__).parent.parent.parent / "feature_repo"


def define(workload: Workload, home: Path) -> list[Any]:
    things: list[Any] = runpy.run_path(str(REPOSITORY / "definitions.py"))["define"](workload, home)
    return things


@pytest.fixture(scope="module")
def defined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    return {thing.name: thing for thing in define(load("fraud"), home)}


def test_the_views_hold_the_fields_of_the_states(defined: dict[str, Any]) -> None:
    fields = {name: {field.name for field in defined[name].schema} for name in ("customer_state", "terminal_state")}

    assert fields["customer_state"] - {"customer_id"} == set(formulas.CUSTOMER_STATE_FIELDS)
    assert fields["terminal_state"] - {"terminal_id"} == set(formulas.TERMINAL_STATE_FIELDS)


def test_the_service_is_the_versioned_one_and_holds_both_views(defined: dict[str, Any]) -> None:
    service = defined[f.FEATURE_SERVICE]

    assert {projection.name for projection in service.feature_view_projections} == {"customer_state", "terminal_state"}


def test_customer_states_can_be_pushed(defined: dict[str, Any]) -> None:
    assert defined["customer_state"].stream_source.name == "customer_state_push"


def test_refreshed_states_are_not_pushed(defined: dict[str, Any]) -> None:
    assert defined["terminal_state"].stream_source is None


def test_an_entity_made_of_others_is_a_text_key_like_any(machines: Workload, tmp_path: Path) -> None:
    things = {thing.name: thing for thing in define(machines, tmp_path)}

    assert things.keys() == {"machine", "post", "machine_state", "post_state", "machine_hours_v1"}
    assert (things["post"].join_key, things["post"].value_type) == ("post", ValueType.STRING)


def test_two_views_with_a_field_of_one_name_are_refused(
    machines: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [View(name, name, {"readings": pa.int64()}, recent=False) for name in ("machine", "post")]
    monkeypatch.setattr(machines.features, "VIEWS", tuple(views))

    with pytest.raises(ConfigError, match=r"'machine' and 'post' of workload 'machines' have a field 'readings'"):
        define(machines, tmp_path)


def test_a_field_that_no_state_can_have_is_refused(
    machines: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        machines.features, "VIEWS", (View("of_machine", "machine", {"name": pa.string()}, recent=False),)
    )

    with pytest.raises(ConfigError, match=r"'name' of a view is string; wanted int64"):
        define(machines, tmp_path)


def test_every_path_in_the_repository_is_below_the_home(defined: dict[str, Any]) -> None:
    sources = [defined[name].batch_source.path for name in ("customer_state", "terminal_state")]
    configuration = (REPOSITORY / "feature_store.yaml").read_text()

    assert all(Path(path).is_absolute() and "/sources/" in path for path in sources)
    assert configuration.count("path:") == configuration.count("${MILLRACE_GENERATION}/") == 2
