"""What the drill plants, and what it makes of what it saw; the servers themselves are the drill's own business."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from components.monitor.config import MonitorConfig
from drill.__main__ import changes, cooldown_days, drill, environment, kills, main, shortened
from drill.figures import figures
from drill.live import Live, require
from drill.moments import Moment
from drill.page import _timeline, write
from drill.story import Story
from drill.world import WARM_DAYS, Script, by_refresh, seconds_of, tables
from fraud.features import REFRESHES_PER_DAY
from millrace.errors import ConfigError, InvalidInput, NotFound
from millrace.events.log import engine, migrate
from millrace.installed import Workload, load
from millrace.instants import last_refresh
from millrace.registry import audit
from millrace.registry.models import Registry
from millrace.settings import Settings, settings

FRAUD = load("fraud")
SMALL = Script(size=60, days=14, shift_day=8, outage_day=10, pattern_day=11)


@pytest.fixture(scope="module")
def days() -> dict[int, pa.Table]:
    return dict(tables(SMALL, FRAUD.drill))


def test_days_before_the_first_served_one_are_negative_and_healthy(days: dict[int, pa.Table]) -> None:
    assert min(days) == -WARM_DAYS
    assert max(days) == SMALL.days - 1
    assert pc.min(days[0]["event_timestamp"]).as_py() >= SMALL.instant(0)
    assert all(not pc.any(pc.equal(days[day]["fraud_scenario"], 4)).as_py() for day in range(-WARM_DAYS, 11))


def test_amounts_are_a_tenth_larger_from_the_shift_on(days: dict[int, pa.Table]) -> None:
    plain = dict(tables(Script(size=60, days=14, shift_day=8, shift_pct=0, outage_day=10, pattern_day=11), FRAUD.drill))

    ratio = pc.sum(days[9]["amount"]).as_py() / pc.sum(plain[9]["amount"]).as_py()

    assert days[7].equals(plain[7])
    assert float(ratio) == pytest.approx(1.1, abs=1e-3)
    assert days[9]["is_fraud"].equals(plain[9]["is_fraud"])


def test_nothing_is_delivered_during_the_outage(days: dict[int, pa.Table]) -> None:
    at = seconds_of(days[SMALL.outage_day])
    begin = SMALL.instant(SMALL.outage_day, SMALL.outage_hour).timestamp()

    silent = (at >= begin) & (at < begin + SMALL.outage_hours * 3600)

    assert len(at) > 20
    assert not silent.any()


def test_rows_come_by_the_refresh_of_terminal_states_that_they_see(days: dict[int, pa.Table]) -> None:
    parts = list(by_refresh(days[3], REFRESHES_PER_DAY))

    assert [at for at, _ in parts] == [last_refresh(at, REFRESHES_PER_DAY) for at, _ in parts]
    assert parts[0][0] == SMALL.instant(3)
    assert pa.concat_tables(part for _, part in parts).equals(days[3])
    for at, part in parts:
        assert {last_refresh(moment, REFRESHES_PER_DAY) for moment in part["event_timestamp"].to_pylist()} == {at}


def test_the_new_pattern_begins_on_its_day(days: dict[int, pa.Table]) -> None:
    assert pc.sum(pc.equal(days[11]["fraud_scenario"], 4)).as_py() == 30


def test_troubles_out_of_order_are_refused() -> None:
    with pytest.raises(InvalidInput, match="in this order"):
        Script(shift_day=20, outage_day=18)


def test_a_short_drill_keeps_the_order_of_troubles() -> None:
    short = shortened(Script(days=30))

    assert 8 <= short.shift_day < short.outage_day < short.pattern_day < 30
    assert len(set(kills(short, Live(Path(), {}, Settings())))) >= 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--days", "10"], "--days is 10; the new pattern begins on day 10. Take 11 or more."),
        (["--days", "-1"], "--days is -1; the new pattern begins on day 10. Take 11 or more."),
        (["--size", "0"], "--size is 0; a world has a size of 1 or more"),
    ],
)
def test_a_drill_that_nothing_can_be_planted_in_is_refused_at_once(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))

    assert main(arguments) == 1

    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_drill_listens_elsewhere_than_the_servers_of_the_outer_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        usual = str(taken.getsockname()[1])
        monkeypatch.setenv("MILLRACE_GATEWAY_PORT", usual)

        inner = changes(tmp_path / "drill", tmp_path / "drill" / "raw", "fraud")
        env = environment(inner)

    assert env["MILLRACE_HOME"] == str(tmp_path / "drill")
    assert env["MILLRACE_GATEWAY_PORT"] == inner["gateway_port"] != usual


def test_the_drill_and_its_servers_have_the_same_settings_and_the_process_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "outer"))

    inner = changes(tmp_path / "drill", tmp_path / "drill" / "raw", "fraud")
    here, outer = Settings(**inner), settings()
    for name, value in environment(inner).items():
        monkeypatch.setenv(name, value)

    assert here.review_capacity == 20
    assert outer.home == tmp_path / "outer"
    assert settings() == here


@pytest.mark.parametrize(("name", "value"), [("lake_remote", "s3://lake"), ("feature_store", "/etc/store.yaml")])
def test_a_lake_or_store_that_others_share_does_not_get_the_drills_days(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"MILLRACE_{name.upper()} is '{value}'"):
        drill(SMALL, Settings(home=tmp_path, **{name: value}), chaos=False)


def test_events_labels_and_versions_of_the_drill_go_to_no_service_that_others_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_STREAM_URL", "redis://shared/0")
    monkeypatch.setenv("MILLRACE_PREDICTION_LOG_URL", "postgresql://shared/log")
    monkeypatch.setenv("MILLRACE_MLFLOW_TRACKING_URI", "http://shared")

    inner = changes(tmp_path / "drill", tmp_path / "drill" / "raw", "fraud")
    here, told = Settings(**inner), environment(inner)

    assert not here.stream_url.get_secret_value()
    assert not here.prediction_log_url.get_secret_value()
    assert here.tracking_uri.startswith(f"sqlite:///{tmp_path / 'drill'}")
    assert not [name for name, value in told.items() if name.startswith("MILLRACE_") and "//shared" in value]


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="the prediction log"):
        require(tmp_path)


def test_a_log_whose_tables_are_not_made_yet_is_waited_for(tmp_path: Path) -> None:
    """It is ready for events before it has migrated its database."""
    here = Settings(home=tmp_path)
    live = Live(tmp_path, {}, here)
    log = engine(here)

    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(live.wait_logged)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        migrate(log)
        waiting.result(30)

    log.dispose()


def story_of(*moments: Moment) -> SimpleNamespace:
    rows = {day: table for day, table in tables(SMALL, FRAUD.drill) if day >= 0}
    sent = sum(len(table) for table in rows.values())
    live = SimpleNamespace(sent=sent, logged=lambda: (sent, sent), watched=lambda: sent)
    return SimpleNamespace(
        workload=FRAUD, script=SMALL, moments=list(moments), delivered=rows, live=live, spent={"store": 1.26}
    )


def test_figures_are_made_of_moments(days: dict[int, pa.Table]) -> None:
    noticed = SMALL.instant(8) + timedelta(hours=14)
    story = story_of(
        Moment(3.0, "alarm", "", 10.0, {"source": "outcome"}),
        Moment(8.6, "alarm", "", 20.0,
               {"source": "drift", "features": ["amount"], "kind": "features", "last_event": noticed.isoformat()}),
        Moment(10.46, "silence", "", 30.0, {"minutes": 6, "planted": True}),
        Moment(19.0, "alarm", "", 40.0, {"source": "outcome"}),
        Moment(19.0, "retraining", "", 130.0, {"outcome": "promoted", "came_at": "2026-01-01T00:00:00+00:00"}),
        Moment(19.0, "canary", "", 131.0, {"version": 2, "began": "2026-01-01T00:01:31+00:00"}),
        Moment(21.0, "promoted", "", 160.0, {"version": 2}),
    )  # fmt: skip

    document = figures(story)

    shifted = seconds_of(days[8])
    assert document["false_alarms_per_30_days"] == pytest.approx(30 / 8)
    assert document["covariate_shift_noticed_after_requests"] == int(np.sum(shifted <= noticed.timestamp()))
    assert document["feed_outage_noticed_after_minutes"] == 6
    assert document["new_pattern_noticed_after_days_of_labels"] == 1.0
    assert document["alarm_to_canary_s"] == 91.0
    assert document["first_promoted_day"] == 21.0
    assert document["counted_twice"] == 0
    assert document["seconds_store"] == 1.3


@pytest.mark.parametrize(("workload", "known"), [("fraud", "7 days later"), ("trips", "by the end of it")])
def test_the_page_names_its_own_days_and_when_labels_are_known(workload: str, known: str, tmp_path: Path) -> None:
    story = story_of()
    story.workload = load(workload)
    day = {"first_day": str(SMALL.date(2)), "model_version": "1", "name": "some_figure", "value": 0.5}
    story.quality = [day, day | {"model_version": "2", "value": None}]

    write(tmp_path / "drill.html", story, figures(story))

    text = (tmp_path / "drill.html").read_text()
    timeline, _ = _timeline(story)
    assert timeline.axes[0].get_title(loc="left") == "14 days"
    assert f"14 days from {SMALL.start}" in text
    assert known in text
    assert text.count("not noticed") == 3


def test_what_was_not_noticed_is_null() -> None:
    document = figures(story_of())

    assert document["covariate_shift_noticed_after_requests"] is None
    assert document["new_pattern_noticed_after_days_of_labels"] is None
    assert document["feed_outage_noticed_after_minutes"] is None
    assert document["alarm_to_canary_s"] is None


def test_a_canary_that_has_ended_is_told_from_the_audit_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    here = settings()
    registry = Registry(here)
    story = Story(SMALL, Live(tmp_path, {}, here), here, tmp_path, MonitorConfig.load(), {})

    def record(action: str, **fields: object) -> None:
        audit.append(registry.audit_path, audit.new_record(action, model=registry.name, **fields))

    record("promote", to_version=2)
    for action, percent in (("canary_started", 10), ("canary_advance", 50)):
        record(action, stable_version=1, canary_version=2, percent=percent, reason="sound")
    story._see_canary_between()
    record("canary_promote", stable_version=1, canary_version=2, percent=100, reason="sound")
    record("make_champion", to_version=2)  # publishes a manifest that knows of no canary
    record("canary_started", stable_version=2, canary_version=3, percent=10, reason="started")
    record("canary_roll_back", stable_version=2, canary_version=3, percent=0, reason="errors")
    story._see_canary_between()
    story._see_canary_between()

    told = [(m.what, m.facts["version"], m.facts["percent"]) for m in story.moments]
    assert told == [
        ("canary", 2, 10),
        ("canary", 2, 50),
        ("promoted", 2, 100),
        ("canary", 3, 10),
        ("rolled_back", 3, 0),
    ]


def test_a_workload_without_a_drill_says_so(machines: Workload) -> None:
    with pytest.raises(ConfigError, match=r"has no module machines\.drill"):
        _ = machines.drill


def test_trips_are_as_ingest_takes_them_and_what_is_planted_begins_on_its_day() -> None:
    plain = Script(size=200, days=14, shift_day=8, shift_pct=0, outage_day=10, pattern_day=13)
    shifted = dict(tables(replace(plain, shift_pct=10), load("trips").drill))
    sooner = dict(tables(replace(plain, pattern_day=12), load("trips").drill))

    miles, minutes = (shifted[9][name].to_numpy() for name in ("trip_distance", "duration_min"))
    usual = dict(tables(plain, load("trips").drill))
    assert shifted[7].equals(usual[7])
    assert sooner[11].equals(usual[11])
    np.testing.assert_allclose(miles, usual[9]["trip_distance"].to_numpy() * 1.1, atol=0.0051)
    np.testing.assert_array_equal(minutes, usual[9]["duration_min"].to_numpy())
    assert pc.mean(sooner[12]["duration_min"]).as_py() > 1.2 * pc.mean(usual[12]["duration_min"]).as_py()
    for day, rows in usual.items():
        assert rows.schema.equals(load("trips").schema.EVENTS)
        assert pc.min(rows["event_timestamp"]).as_py() >= plain.instant(day)
        assert pc.max(rows["event_timestamp"]).as_py() < plain.instant(day + 1)
        assert pc.min(rows["duration_min"]).as_py() >= 1
    ids = [identity for rows in usual.values() for identity in rows["trip_id"].to_pylist()]
    assert len(ids) == len(set(ids))


def test_no_alarm_begins_a_retraining_that_could_not_know_its_cause() -> None:
    assert (cooldown_days("fraud"), cooldown_days("trips")) == (18, 11)


def test_rows_are_asked_and_labelled_by_the_workloads_names(days: dict[int, pa.Table], tmp_path: Path) -> None:
    live = Live(tmp_path, {}, Settings(home=tmp_path))

    asked = live._instances(days[1].slice(0, 2))

    assert asked[0].keys() == {"transaction_id", "customer_id", "terminal_id", "amount", "event_timestamp"}
    assert isinstance(asked[0]["amount"], float)
