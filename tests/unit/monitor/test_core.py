"""The verdict on a log: well, decayed, starved, degraded, silent; each told apart by its rule."""

import json
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from logged import label_row

from components.monitor.agreement import matrix
from components.monitor.announce import announce, event_of
from components.monitor.config import MonitorConfig
from components.monitor.core import instant_of, monitor
from components.monitor.episodes import CALM_REPORTS, follow, state
from fraud.features import FEATURE_NAMES
from millrace.errors import InvalidInput, Unavailable
from millrace.events.log import engine, migrate, write_labels
from millrace.lake.manifest import Manifest, hash_files
from millrace.settings import Settings

QUICK = MonitorConfig.load(overrides={"resamples": 20, "estimate_draws": 20, "loss_tolerance": 0.3})
Log = Callable[..., Settings]
After = Callable[..., datetime]


def test_a_model_that_does_well_passes_with_figures_of_every_judged_day(log_of: Log, after: After) -> None:
    report = monitor(log_of(20), after(20), QUICK, page=False)

    document = json.loads(report.path("report.json").read_text())
    judged = [day for day in document["days"] if day["complete"]]
    assert report.facts["passed"], report.facts["failed"]
    assert len(judged) == 13
    assert all(day["figures"]["average_precision"]["value"] > 0.1 for day in judged)
    assert len(document["estimates"]) == 7
    assert document["references"]["1"]["source"] == "its first 7 judged days"
    assert report.facts["retrain"] is False


def test_a_new_fraud_pattern_is_decay_within_two_days_of_its_labels(log_of: Log, after: After) -> None:
    settings = log_of(18, burst_from=16)
    before = monitor(settings, after(23), QUICK, page=False)

    report = monitor(settings, after(25), QUICK, page=False)

    assert before.facts["retrain"] is False
    assert report.facts["retrain"] is True
    assert report.facts["alarm_day"] in {"2018-06-17", "2018-06-18"}
    assert any(name.startswith("concept_drift_evidence") for name in report.facts["failed"])
    assert "concept_drift_evidence[v1]" in report.facts["reason"]


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ({"degraded": 0.1}, "degraded_share"),
        ({"missing": 0.2}, "missing_feature_share"),
        ({"silent_day": 9, "silent_from_hour": 20, "a_day": 2000}, "silent_windows"),
    ],
)
def test_a_broken_feed_is_an_alarm_and_no_reason_to_retrain(
    log_of: Log, after: After, planted: dict[str, float], rule: str
) -> None:
    report = monitor(log_of(10, **planted), after(9, 22), QUICK, page=False)

    assert rule in report.facts["failed"]
    assert report.facts["retrain"] is False


def test_labels_that_are_due_and_missing_are_an_alarm(log_of: Log, after: After) -> None:
    report = monitor(log_of(10), after(17), QUICK.model_copy(update={"min_label_share": 1.0}), page=False)
    short = log_of(10)
    log = engine(short)
    with log.begin() as connection:
        connection.exec_driver_sql("DELETE FROM labels WHERE event_id < 1000")
    log.dispose()

    starved = monitor(short, after(17), QUICK, page=False)

    assert "days_without_labels" not in report.facts["failed"]
    assert "days_without_labels" in starved.facts["failed"]


def test_an_empty_log_fails_and_does_not_pass_for_lack_of_evidence(home: Settings, after: After) -> None:
    log = engine(home)
    migrate(log)
    log.dispose()

    report = monitor(home, after(5), QUICK, page=False)

    assert {"answers", "degraded_share", "missing_feature_share"} <= set(report.facts["failed"])


def test_a_log_that_is_not_there_is_an_error(home: Settings, after: After) -> None:
    with pytest.raises(Unavailable):
        monitor(home, after(5), QUICK, page=False)


def test_the_same_log_gives_the_same_report_and_a_new_label_another(log_of: Log, after: After) -> None:
    settings = log_of(10)
    first = monitor(settings, after(10), QUICK, page=False)

    again = monitor(settings, after(10), QUICK, page=False)
    log = engine(settings)
    write_labels(log, [label_row(5, True, after(8))])
    log.dispose()

    assert again.id == first.id
    assert monitor(settings, after(10), QUICK, page=False).id != first.id


def test_the_page_shows_verdict_and_plots_and_needs_no_network(log_of: Log, after: After) -> None:
    settings = log_of(16)
    report = monitor(settings, after(16), QUICK)

    page = (settings.reports / "outcomes.html").read_text()

    assert page == report.path("report.html").read_text()
    assert page.count("data:image/png") == 4
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "Evidence that the loss has grown" not in page  # a plot's title is in the picture
    assert "no feature set holds these days" in page


def test_logged_features_are_held_against_the_feature_set(log_of: Log, after: After, tmp_path: Path) -> None:
    settings = log_of(3)
    ids = [2 * 10**6 + i for i in range(300)]
    table = pa.table({"transaction_id": ids} | {name: np.ones(300, np.float32) for name in FEATURE_NAMES})
    table = table.set_column(3, FEATURE_NAMES[2], pa.array(np.r_[np.full(60, 5), np.ones(240)].astype(np.float32)))
    folder = settings.lake / "feature_sets" / "f"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "day.parquet")
    facts = {"tables": {"events": {"2018-06-03": "day.parquet"}}}
    Manifest(
        kind="feature_set", id="f", workload="fraud", uri=str(folder), files=hash_files(folder), facts=facts
    ).write()

    report = monitor(settings, after(3), QUICK, page=False)

    found = json.loads(report.path("report.json").read_text())["agreement"]
    assert (found["rows"], found["differing"]) == (300, 60)
    assert found["worst"] == {FEATURE_NAMES[2]: 4.0}
    assert "feature_disagreement_share" in report.facts["failed"]


def test_a_list_of_another_length_counts_as_missing() -> None:
    rows = pa.table({"features": pa.array([[1.0], None, [2.0] * len(FEATURE_NAMES)], pa.list_(pa.float32()))})

    assert np.isnan(matrix(rows, len(FEATURE_NAMES))).all(axis=1).tolist() == [True, True, False]


def test_the_same_finding_is_announced_under_the_same_id(log_of: Log, after: After) -> None:
    settings = log_of(19, burst_from=16)
    a, b = (monitor(settings, after(25, hours), QUICK, page=False) for hours in (0, 6))

    assert event_of(a)["id"] == event_of(b)["id"]
    assert event_of(a)["type"] == "io.millrace.outcome"
    assert event_of(a)["data"]["retrain"] is True


def test_decay_that_lasts_is_one_alarm(log_of: Log, after: After) -> None:
    """Each day's event is another, so that the trigger may act on it, and all name the same episode."""
    settings = log_of(21, burst_from=16)

    reports = [monitor(settings, after(day), QUICK, page=False) for day in (23, 25, 26, 27)]

    assert [report.facts["episode"] for report in reports] == ["", "began", "lasts", "lasts"]
    events = [event_of(report) for report in reports[1:]]
    assert len({event["id"] for event in events}) == 3
    assert len({event["data"]["episode"] for event in events}) == 1
    again = monitor(settings, after(26), QUICK, page=False)
    assert again.id == reports[2].id  # an old instant is judged as it was, whatever came after it


def test_an_episode_ends_after_calm_reports_and_with_its_version() -> None:
    day = date(2018, 6, 1)
    began = follow({}, ["1"], ["1"], day)
    calm = [follow(began, [], ["1"], day)]
    for _ in range(CALM_REPORTS - 1):
        calm.append(follow(calm[-1], [], ["1"], day))

    assert began == {"1": {"since": "2018-06-01", "calm": 0}}
    assert [bool(episodes) for episodes in calm] == [True] * (CALM_REPORTS - 1) + [False]
    assert follow(calm[0], ["1"], ["1"], date(2018, 6, 3)) == began  # the same one goes on
    assert (state({}, began), state(began, began), state(calm[-2], calm[-1]), state({}, {})) == (
        "began",
        "lasts",
        "ended",
        "",
    )
    both = follow(began, ["2"], ["1", "2"], day)
    assert state(began, both) == "began"
    assert follow(both, [], ["2"], day).keys() == {"2"}  # version 1 serves no more


def test_an_alarm_that_nobody_takes_is_an_error(log_of: Log, after: After) -> None:
    report = monitor(log_of(10, degraded=0.2), after(10), QUICK, page=False)

    with pytest.raises(Unavailable, match="cannot be reached"):
        announce(report, "http://127.0.0.1:9/")
    assert "not sent" in announce(report, "")


def test_an_instant_is_utc_when_it_does_not_say_and_nonsense_is_refused() -> None:
    assert instant_of("2018-06-01T02:00:00+02:00") == instant_of("2018-06-01")
    with pytest.raises(InvalidInput, match="ISO 8601"):
        instant_of("yesterday")
