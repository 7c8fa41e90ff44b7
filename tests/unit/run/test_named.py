"""`--name` and columns that are features: which workload a run is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.ingest.config import IngestConfig
from millrace.installed import load
from millrace.reading.document import parse
from run.source import named

COLUMNS = parse({"columns": {"amount": "amt"}, "features": {"age": {"kind": "numeric", "column": "device_age"}}})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))


def test_without_a_name_and_columns_a_run_is_of_the_workload_itself() -> None:
    assert named("fraud", "").workload == "fraud"


def test_columns_without_a_name_make_a_variant_beside_the_workload() -> None:
    here = named("fraud", "", COLUMNS)

    assert (here.workload, here.model_name) == ("fraud_own", "fraud-own")
    assert "age_value" in load(here.workload).features.FEATURE_NAMES


def test_naming_a_variant_again_without_columns_leaves_it_as_it_is() -> None:
    named("fraud", "mine", COLUMNS)

    named("fraud", "mine")
    named("mine", "")

    assert load("mine").has_own


def test_new_columns_of_a_variant_are_a_new_feature_service_and_the_old_one_is_still_found() -> None:
    named("fraud", "mine", COLUMNS)
    before = load("mine").features.FEATURE_SERVICE

    named("mine", "", parse({"features": {"chip": {"kind": "boolean"}}}))

    after = load("mine").features
    assert before != after.FEATURE_SERVICE
    assert "age_value" not in after.FEATURE_NAMES
    assert "age_value" in load("mine", before).features.FEATURE_NAMES


def test_a_source_of_a_variant_is_read_with_the_very_file_that_declared_it() -> None:
    here = named("fraud", "mine", COLUMNS)

    config = IngestConfig(workload=here.workload, pseudonym_key=b"k", columns=COLUMNS)

    assert "features" not in config.identity
