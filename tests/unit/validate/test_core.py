"""Which days are judged against which, what is found again, and how often clean data is stopped."""

import json

import pyarrow as pa
import pytest

from components.validate.config import ValidateConfig
from components.validate.core import choose_windows, find_previous
from components.validate.core import validate as judged_by
from millrace.errors import ConfigError, InvalidInput
from millrace.installed import load
from millrace.judge.gates import Verdict

CONFIG = ValidateConfig.load(load("fraud"), profile="simulated")


def validate(snapshot, previous, lake, config=CONFIG):
    return judged_by(snapshot, previous, lake, config)


def rules(validation):
    return {rule.name: rule for rule in Verdict.read(validation.path("verdict.json")).rules}


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_clean_data_is_not_stopped(seed, simulated, snapshot, lake):
    days = simulated(30, seed)
    before, now = snapshot(days[:-1], "before"), snapshot(days, "now")

    assert validate(before, None, lake).facts["passed"]
    assert validate(now, before, lake).facts["passed"]


def test_the_same_snapshot_is_judged_once(simulated, snapshot, lake):
    now = snapshot(simulated(30))

    first, again = validate(now, None, lake), validate(now, None, lake)
    stricter = validate(now, None, lake, ValidateConfig.load(load("fraud"), {"min_days": 90}, profile="simulated"))

    assert again == first
    assert stricter.id != first.id
    first.verify()
    assert set(first.files) == {"report.json", "report.html", "verdict.json"}
    assert first.parents == {"snapshot": "aa"}
    assert json.loads(first.path("report.json").read_text())["passed"] is True
    assert [*lake.glob("validations/.*")] == []


def test_a_snapshot_is_not_its_own_predecessor(simulated, snapshot, lake):
    now = snapshot(simulated(30))

    assert validate(now, now, lake) == validate(now, None, lake)


def test_an_empty_snapshot_is_refused(snapshot, lake):
    with pytest.raises(InvalidInput, match="no rows"):
        validate(snapshot([]), None, lake)


def test_a_single_day_is_blocked_not_a_crash(simulated, snapshot, lake):
    verdict = rules(validate(snapshot(simulated(30)[:1]), None, lake))

    assert not verdict["days"].passed


def test_rows_without_labels_are_blocked_not_a_crash(simulated, snapshot, lake):
    def unlabelled(table):
        place = table.schema.get_field_index("is_fraud")
        return table.set_column(place, "is_fraud", pa.nulls(len(table), pa.int8()))

    verdict = rules(validate(snapshot([unlabelled(table) for table in simulated(30)]), None, lake))

    assert verdict["positive_share_high"].value is None
    assert not verdict["unlabelled_share"].passed


def test_labels_that_are_not_known_yet_are_fine(simulated, snapshot, lake):
    days = simulated(30)
    recent = [table.set_column(5, "is_fraud", pa.nulls(len(table), pa.int8())) for table in days[-8:]]

    assert validate(snapshot([*days[:-8], *recent]), None, lake).facts["passed"]


def test_an_export_taken_at_noon_is_not_a_fault(simulated, snapshot, lake):
    days = simulated(30)
    half = days[-1].slice(0, len(days[-1]) // 2)  # rows are in time order: the morning

    result = validate(snapshot([*days[:-1], half]), None, lake)

    assert result.facts["passed"]
    assert result.facts["unfinished"] == ["2018-04-30"]


def test_a_last_day_that_lost_every_second_row_is_a_fault(simulated, snapshot, lake):
    days = simulated(30)
    thinned = days[-1].take(pa.array(range(0, len(days[-1]), 2)))

    verdict = rules(validate(snapshot([*days[:-1], thinned]), None, lake))

    assert not verdict["day_rows_low"].passed
    assert verdict["day_rows_low"].detail == "2018-04-30"


def test_one_new_day_of_half_the_rows_is_blocked_against_its_predecessor(simulated, snapshot, lake):
    days = simulated(30)
    before = snapshot(days[:-1], "before")
    thinned = days[-1].take(pa.array(range(0, len(days[-1]), 2)))

    verdict = rules(validate(snapshot([*days[:-1], thinned], "now"), before, lake))

    assert not verdict["day_rows_low"].passed
    assert verdict["missing_days"].passed


def test_inflation_within_bounds_is_drift_and_passes(simulated, snapshot, lake):
    assert validate(snapshot(simulated(42, inflation_pct_per_week=1.0)), None, lake).facts["passed"]


def test_new_days_are_judged_against_the_predecessors_last_weeks():
    windows = choose_windows(list(range(100, 163)), list(range(100, 160)), CONFIG)

    assert windows.current == windows.judged == (160, 161, 162)
    assert windows.reference == tuple(range(132, 160))


def test_nothing_new_judges_the_last_week():
    windows = choose_windows(list(range(100, 160)), list(range(100, 160)), CONFIG)

    assert windows.current == tuple(range(153, 160))
    assert max(windows.reference) == 152


def test_a_first_snapshot_is_judged_against_its_first_weeks():
    windows = choose_windows(list(range(100, 160)), None, CONFIG)

    assert windows.judged == tuple(range(100, 160))
    assert windows.reference == tuple(range(100, 128))
    assert windows.current == tuple(range(153, 160))


def test_a_short_first_snapshot_keeps_days_to_compare_with():
    windows = choose_windows(list(range(100, 106)), None, CONFIG)

    assert windows.current == (103, 104, 105)
    assert windows.reference == (100, 101, 102)


def test_the_predecessor_is_the_newest_of_the_same_source_that_passed(simulated, snapshot, lake):
    days = simulated(30)
    passed, failed = snapshot(days[:20], "passed"), snapshot(days[:5], "failed")
    other, unjudged = snapshot(days[:21], "other", source="elsewhere"), snapshot(days[:22], "unjudged")
    now = snapshot(days, "now")
    for candidate in (passed, failed, other):
        validate(candidate, None, lake)

    assert find_previous(now, lake) == passed
    assert find_previous(passed, lake) is None
    assert unjudged.id != passed.id


def test_a_wrong_setting_is_named_with_its_file(tmp_path):
    with pytest.raises(ConfigError, match=r"validate.yaml: min_day .*Extra inputs"):
        ValidateConfig.load(load("fraud"), {"min_day": 3}, profile="simulated")
    with pytest.raises(ConfigError, match="max_value_ks is 'much'"):
        ValidateConfig.load(load("fraud"), {"max_value_ks": "much"}, profile="simulated")
    with pytest.raises(ConfigError, match="no configuration"):
        ValidateConfig.load(load("fraud"), path=tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="not a mapping"):
        ValidateConfig.load(load("fraud"), {"min_days": 3}, tmp_path / "list.yaml")


def test_a_days_rows_are_counted_by_their_time_not_by_their_file(simulated, snapshot, lake):
    days = simulated(30)
    together = [pa.concat_tables(days[:2]), None, *days[2:]]

    assert validate(snapshot(together), None, lake).facts["passed"]


def test_limits_are_the_platforms_then_the_workloads_then_those_of_the_call():
    config = ValidateConfig.load(
        load("fraud"), {"entities": {"customer": {"max_silent_share": 0.3}}}, profile="simulated"
    )

    shares = [config.silent_share(name) for name in ("customer", "terminal")]

    assert shares == [0.3, 0.05]
    assert config.new_row_share("terminal") == config.max_new_row_share == 0.2


def test_limits_of_an_entity_that_the_workload_does_not_have_are_refused():
    with pytest.raises(ConfigError, match=r"limits of \['planet'\]; fraud has \['customer', 'terminal'\]"):
        ValidateConfig.load(load("fraud"), {"entities": {"planet": {"max_silent_share": 0.3}}}, profile="simulated")
