"""Simulated days, sixty or `--days`, through live servers: `python -m drill [--chaos]`, which is `make drill`.

A first champion is trained and served; then days pass: healthy ones, a shift of the inputs, an outage of the feed, a
pattern that is new. What noticed what, and what followed, is `<home>/bench/drill.json` and
`<home>/report/<workload>/drill.html`.
The drill has a home of its own inside the given one, and leaves the model that is served there alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from components.monitor.config import MonitorConfig
from drill import live as servers
from drill.figures import write
from drill.live import LOG, TRIGGER, Live
from drill.story import Story
from drill.world import WARM_DAYS, Script, tables
from millrace.errors import ConfigError, InvalidInput, MillraceError
from millrace.installed import load
from millrace.lake.atomic import exclusive
from millrace.lake.horizon import TEST_DAYS
from millrace.observe.progress import log
from millrace.report.index import link
from millrace.settings import Settings, settings

HERE = Path(__file__).parent
ROOT = HERE.parent
TRAIN_DAYS = 24
VALIDATION_DAYS = 4
OWN = ("stream_url", "prediction_log_url", "mlflow_tracking_uri")
"""Settings that may name a service which others share; a drill has its own of each, in its home."""
QUICK = {"resamples": 20, "estimate_draws": 20}


def main(argv: Sequence[str] | None = None) -> int:
    """0: it ran to its end, whatever was noticed; 1: an error."""
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: what it started ends with it
    try:
        here = settings(options.workload)
        script = Script(days=options.days, size=options.size)
        if options.days != Script().days:
            script = shortened(script)
        return drill(script, here, chaos=options.chaos)
    except MillraceError as error:
        print(f"\ndrill: {error}", file=sys.stderr)
        return 1


def drill(script: Script, outer: Settings, *, chaos: bool) -> int:
    """Run it; the servers are stopped at the end, whatever happens.

    Raises ConfigError where the lake has a remote, or the home's online store is another's: both would take the drill's
    simulated days for the home's own.
    """
    for name in ("lake_remote", "feature_store"):
        value = getattr(outer, name)
        if value:
            raise ConfigError(
                f"MILLRACE_{name.upper()} is '{value}'; a drill keeps its days to itself. Unset it for the drill."
            )
    began = time.perf_counter()
    servers.require(ROOT)
    part = load(outer.workload).drill
    home = outer.home / "drill"
    with exclusive(outer.home / "drill.lock", f"a drill in {outer.home}"):
        shutil.rmtree(home, ignore_errors=True)
        raw = home / "raw" / outer.workload  # where a home keeps its own world, whose limits are sharper
        raw.mkdir(parents=True)
        inner = changes(home, raw, outer.workload)
        here, env = Settings(**inner), environment(inner)
        days = tables(script, part)
        for _ in range(WARM_DAYS):
            day, rows = next(days)
            pq.write_table(rows.replace_schema_metadata(), raw / f"{script.date(day)}.parquet")
        train = ["--data", str(raw), "--no-serve", "--overrides", str(part.OVERRIDES)]
        servers.program("run", *train, f"--train-days={TRAIN_DAYS}", env=env)
        running = Live(home, env, here)
        story = Story(
            script, running, here, raw, MonitorConfig.load(overrides=QUICK), kills(script, running) if chaos else {}
        )
        try:
            running.up()
            for day, rows in days:
                story.run(day, rows)
        finally:
            running.down()
            story.close()
        document = write(story, time.perf_counter() - began, _page)  # what the servers saved at their end counts
        publish(here, outer)
    for name, value in document.items():
        print(f"{name:45} {value}")
    print(f"Report: {outer.reports / 'drill.html'}")
    return 0


def changes(home: Path, raw: Path, workload: str) -> dict[str, Any]:
    """Settings of the drill's home: field → value, where it differs from the home around it."""
    return {
        "home": str(home),
        "gateway_port": str(servers.free_port()),  # the usual one may serve the outer home's model
        "companions": servers.COMPANIONS,
        "retraining_launcher": "local",  # its manifest names Kubeflow Pipelines
        "retraining_source": str(raw),
        "retraining_overrides": str(load(workload).drill.OVERRIDES),
        "retraining_train_days": str(TRAIN_DAYS),
        "retraining_debounce_s": "1",
        "retraining_cooldown_h": str(24 * cooldown_days(workload)),
        "rollout_policy": str(HERE / "rollout.yaml"),
        "workload": workload,
        "model_name": load(workload).model_name,
        **dict.fromkeys(OWN, ""),
        **load(workload).drill.SETTINGS,
    }


def cooldown_days(workload: str) -> int:
    """The days between those that a challenger learned from and the one on which it is asked for.

    They are held out to stop and to test, or wait for their labels. One that is asked for sooner after an alarm has not
    seen what the alarm was about, and costs minutes to be declined.
    """
    return VALIDATION_DAYS + load(workload).schema.LABEL.delay_days + TEST_DAYS


def environment(inner: Mapping[str, str]) -> dict[str, str]:
    """What the servers, the trigger and its retrainings see: these settings, and this process's environment."""
    told = {f"MILLRACE_{name.upper()}": value for name, value in inner.items()}
    return os.environ | told | {"PYTHONWARNINGS": "ignore"}


def kills(script: Script, live: Live) -> dict[int, tuple[str, ...]]:
    """Who is killed on which day: each alone, then all at once, in quiet days and while labels of the pattern come."""
    return {
        3: (LOG,),
        6: (live.detector,),
        9: (TRIGGER,),
        script.shift_day + 1: (LOG, live.detector, TRIGGER),
        script.pattern_day + 5: (LOG, live.detector, TRIGGER),
    }


def shortened(script: Script) -> Script:
    """The same troubles in fewer days; a model that knows the new pattern may not fit into them.

    Raises InvalidInput where not even the troubles fit.
    """
    part = script.days / Script().days
    shift, outage, pattern = (
        max(round(day * part), floor)
        for day, floor in ((Script().shift_day, 8), (Script().outage_day, 9), (Script().pattern_day, 10))
    )
    if script.days <= pattern:
        raise InvalidInput(
            f"--days is {script.days}; the new pattern begins on day {pattern}. Take {pattern + 1} or more."
        )
    return replace(script, shift_day=shift, outage_day=outage, pattern_day=pattern)


def publish(inside: Settings, outer: Settings) -> None:
    """Figures and page to where everything else looks for them."""
    page = outer.reports / "drill.html"
    for path in (outer.home / "bench" / "drill.json", outer.home / "bench" / "drill_moments.json", page):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(inside.home / path.relative_to(outer.home), path)
    link(outer.reports, page.name)
    log("drill published", home=outer.home)


def _page(path: Path, story: Story, document: dict[str, object]) -> None:
    from drill.page import write as write_page  # matplotlib

    write_page(path, story, document)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m drill", description=__doc__)
    parser.add_argument("--days", type=int, default=Script().days, help="simulated days (default %(default)s)")
    parser.add_argument(
        "--size",
        type=int,
        default=Script().size,
        help="of the world; its README says what it counts (default %(default)s)",
    )
    parser.add_argument("--workload", default="", help="whose drill (default: MILLRACE_WORKLOAD)")
    parser.add_argument("--chaos", action="store_true", help="kill the log, the detector and the trigger on the way")
    return parser


if __name__ == "__main__":
    sys.exit(main())
