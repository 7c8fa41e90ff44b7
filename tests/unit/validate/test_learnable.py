"""What nobody can learn from, or be judged by, is said before anything is computed."""

import numpy as np
import pyarrow as pa
import pytest

from components.validate.config import ValidateConfig
from components.validate.core import validate
from millrace.installed import load
from millrace.judge.explained import explain, require_known, sentences
from millrace.judge.gates import Verdict

FRAUD = load("fraud")
CONFIG = ValidateConfig.load(FRAUD, {"min_test_positives": 20})


def verdict_of(snapshot, lake, tables):
    return Verdict.read(validate(snapshot(tables), None, lake, CONFIG).path("verdict.json"))


def with_column(table, name, values):
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, table.schema.field(name).type))


def positives(table):
    return table["is_fraud"].fill_null(0).to_numpy().astype(int)


def failed(verdict):
    return {rule.name for rule in verdict.failures}


def test_data_to_learn_from_pass_and_every_rule_is_explained_and_may_be_named(simulated, snapshot, lake):
    verdict = verdict_of(snapshot, lake, simulated(60))

    verdict.require()
    assert {"label_values", "window_days", "leaked_column[amount]", "test_positives"} <= {r.name for r in verdict.rules}
    assert all(explain("data", rule.name) for rule in verdict.rules)
    structural = {"label_values", "window_days", "validation_cases"}
    require_known(FRAUD, {rule.name: "a trial" for rule in verdict.rules if rule.name not in structural})


def test_a_constant_target_is_blocked(simulated, snapshot, lake):
    tables = [with_column(table, "is_fraud", np.zeros(len(table), int)) for table in simulated(60)]

    assert "label_values" in failed(verdict_of(snapshot, lake, tables))


def test_a_label_that_leaked_into_a_column_is_blocked_and_the_column_named(simulated, snapshot, lake):
    def leaked(table):
        amounts = np.array([float(value) for value in table["amount"].to_pylist()])
        return [f"{value:.2f}" for value in amounts + 10_000 * positives(table)]

    tables = [
        table.set_column(
            table.schema.get_field_index("amount"), "amount", pa.array(leaked(table)).cast(pa.decimal128(12, 2))
        )
        for table in simulated(60)
    ]

    verdict = verdict_of(snapshot, lake, tables)

    assert failed(verdict) == {"leaked_column[amount]"}
    assert "column 'amount' alone" in sentences(verdict)[0].lower()


def test_a_duplicate_of_the_label_is_blocked_whichever_way_round(simulated, snapshot, lake):
    tables = [
        table.set_column(
            table.schema.get_field_index("amount"),
            "amount",
            pa.array((2.0 - positives(table)).tolist()).cast(pa.decimal128(12, 2)),
        )
        for table in simulated(60)
    ]

    assert "leaked_column[amount]" in failed(verdict_of(snapshot, lake, tables))


def test_a_test_window_without_positives_is_blocked(simulated, snapshot, lake):
    tables = [
        table if day < 30 else with_column(table, "is_fraud", np.zeros(len(table), int))
        for day, table in enumerate(simulated(60))
    ]

    assert "test_positives" in failed(verdict_of(snapshot, lake, tables))


def test_too_few_positives_name_the_smallest_data_that_would_do(simulated, snapshot, lake):
    strict = ValidateConfig.load(FRAUD, {"min_test_positives": 300})

    verdict = Verdict.read(validate(snapshot(simulated(60)), None, lake, strict).path("verdict.json"))

    said = " ".join(sentences(verdict))
    assert failed(verdict) == {"test_positives"}
    assert "days would do, give" in said
    assert "--accept 'test_positives=REASON'" in said


@pytest.mark.parametrize(("days", "missing"), [(10, 9), (15, 4)])
def test_short_data_say_how_many_days_are_missing(days, missing, simulated, snapshot, lake):
    verdict = verdict_of(snapshot, lake, simulated(60)[:days])

    assert failed(verdict) == {"window_days"}
    assert f"Give {missing} more days" in sentences(verdict)[0]


def test_weekends_off_are_no_missing_days_and_a_lost_week_is(simulated, snapshot, lake):
    closed = [
        None if day % 7 in (6, 0) else table for day, table in enumerate(simulated(60))
    ]  # April 1, 2018: a Sunday
    lost = [None if 20 <= day < 27 else table for day, table in enumerate(simulated(60))]

    weekends = verdict_of(snapshot, lake, closed)
    gap = Verdict.read(validate(snapshot(lost, "bb"), None, lake, CONFIG).path("verdict.json"))

    assert "missing_days" not in failed(weekends)
    assert "missing_days" in failed(gap)


def test_batch_scoring_asks_nothing_about_learning(simulated, snapshot, lake):
    short = snapshot(simulated(60)[:10])

    asked, verdict = (
        Verdict.read(validate(short, None, lake, CONFIG, for_training=training).path("verdict.json"))
        for training in (True, False)
    )

    of_learning = {rule.name for rule in asked.rules} - {rule.name for rule in verdict.rules}
    assert {"label_values", "window_days", "leaked_column[amount]"} <= of_learning
    assert not asked.passed
    assert verdict.passed
