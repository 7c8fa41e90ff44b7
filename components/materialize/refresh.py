"""`python -m components.materialize.refresh`: a workload's online store as of now, from its newest feature set.

For a schedule, as often as refreshed views are renewed. A store that knows all events of that feature set gets the
states that changed; any other is filled. What has been pushed since is kept, in SQLite as in Redis.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from components.materialize.core import described, sources_of
from components.materialize.renewal import knows_events, renew
from millrace.errors import InvalidInput, MillraceError, NotFound
from millrace.installed import Workload, load, names
from millrace.instants import last_refresh, start_of
from millrace.lake.atomic import exclusive
from millrace.lake.feast_home import filled_with, repository
from millrace.lake.manifest import Manifest, list_manifests
from millrace.observe.progress import log
from millrace.settings import Settings, settings


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a store holds now: recent views as of `filled`, and what was pushed since; refreshed ones as of `as_of`."""

    filled: Manifest
    as_of: datetime


def refresh(configured: Settings, now: datetime) -> Refreshed | None:
    """Bring the store that serves the configured workload to the last refresh that there is by `now`.

    None when the lake has no feature set yet and the store is not the home's own: then its definitions are registered,
    which servers wait for. Raises NotFound when it is the home's, InvalidInput when all data is later than `now`.
    """
    from components.materialize import serving_store

    home, serving, lake = configured.home, configured.feature_store, configured.lake
    workload = load(configured.workload)
    newest = newest_feature_set(lake, workload)
    if newest is None:
        _register(home, workload, serving, lake)
        return None

    as_of = newest_refresh(newest, now)
    filled = knows_events(newest, lake, home, as_of)
    if filled is None or not (serving is None or serving_store.holds(serving, workload, filled.fetch())):
        filled = _filled(newest, configured, workload, as_of)
    else:
        renew(newest, lake, home, as_of, serving=serving)
    log(
        "online store refreshed",
        workload=workload.name,
        as_of=as_of,
        feature_set=newest.id,
        behind_h=round((now - as_of) / timedelta(hours=1), 1),
        online_store=filled.id,
    )
    return Refreshed(filled, as_of)


def _register(home: Path, workload: Workload, serving: Path | None, lake: Path) -> None:
    """Definitions alone, where there is nothing to fill from."""
    from components.materialize import serving_store

    if serving is None:
        raise NotFound(f"no feature set of {workload.features.FEATURE_SERVICE} in {lake}. Run a pipeline (make run).")
    with exclusive(repository(home, workload.name) / ".lock", f"filling the online store of {home}"):
        serving_store.fill(serving, workload, home, None)


def _filled(newest: Manifest, configured: Settings, workload: Workload, as_of: datetime) -> Manifest:
    """States of all views as of a refresh, into the store that serves."""
    from components.materialize import serving_store, store

    home, serving = configured.home, configured.feature_store
    with exclusive(repository(home, workload.name) / ".lock", f"filling the online store of {home}"):
        made = sources_of(newest, configured.lake, as_of, configured.threads, configured.memory_limit_gb)
        if serving is not None:
            serving_store.fill(serving, workload, home, made.fetch())
            return made

        filled = filled_with(home, workload.name)
        if filled != made.id or not store.applied(home, workload):
            put = store.fill if filled is None else store.renew
            put(home, workload, made.fetch(), made.id)
    return made


def newest_feature_set(lake: Path, workload: Workload) -> Manifest | None:
    """The one that reaches furthest, among those of this code's service and of the source that the store came from.

    A file that was scored in batch leaves a feature set too; it must not become what is served.
    """
    service = workload.features.FEATURE_SERVICE
    stores = [made for made in list_manifests(lake / "online", "online_store") if made.workload == workload.name]
    source = _source_of(lake, stores[-1]) if stores else None

    found = [
        made
        for made in list_manifests(lake / "feature_sets", "feature_set")
        if (made.workload, made.facts["feature_service"]) == (workload.name, service)
        and (source is None or _source_of(lake, made) == source)
    ]
    return max(found, key=lambda made: (made.facts["last_day"], made.created_at), default=None)


def _source_of(lake: Path, made: Manifest) -> str | None:
    """URI that the snapshot behind an artifact was read from; None when the lake has lost that."""
    snapshot = Manifest.find(lake, "snapshot", made.parents.get("snapshot", ""))
    source = snapshot.facts.get("source", {}).get("uri") if snapshot is not None else None
    return str(source) if source else None


def newest_refresh(feature_set: Manifest, now: datetime) -> datetime:
    """The last refresh by `now` that the feature set holds: refreshed views reach to the end of the day after its last.

    Without a refreshed view that is the end of its last day.
    """
    features = load(feature_set.workload).features
    first = start_of(date.fromisoformat(feature_set.facts["first_day"]))
    days = [max(feature_set.facts["tables"][view.name]) for view in features.VIEWS if not view.recent]
    last_day = date.fromisoformat(min(days, default=feature_set.facts["last_day"]))
    end = start_of(last_day) + timedelta(days=1)
    instant = last_refresh(min(now.astimezone(UTC), end - timedelta(microseconds=1)), features.REFRESHES_PER_DAY)

    if instant < first:
        raise InvalidInput(f"now is {now.isoformat()}; feature set {feature_set.id} begins on {first.date()}")
    return instant


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every store asked for is as fresh as the lake allows; 2 on an error, which goes to stderr.

    A store that fails keeps no other from its refresh.
    """
    parser = argparse.ArgumentParser(prog="python -m components.materialize.refresh", description=__doc__)
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--workload", default="", help="whose store (default: MILLRACE_WORKLOAD)")
    whose.add_argument("--all", action="store_true", help="the store of every workload that is installed")
    parser.add_argument("--now", type=datetime.fromisoformat, help="ISO 8601 instant with a time zone (default: now)")
    parsed = parser.parse_args(arguments)

    chosen = names() if parsed.all else [parsed.workload]
    results = [_refreshed(name, parsed.now) for name in chosen]
    return max(results, default=0)


def _refreshed(name: str, now: datetime | None) -> int:
    """0, or 2 for a store that could not be refreshed; says which on stdout or stderr."""
    try:
        if now is not None and now.tzinfo is None:
            raise InvalidInput(f"--now is {now}; wanted its time zone too, such as {now}+00:00")
        print(_said(refresh(settings(name), now or datetime.now(UTC)), name))
    except MillraceError as error:
        print(f"error: {name}: {error}" if name else f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _said(made: Refreshed | None, name: str) -> str:
    whose = f"{name}: " if name else ""
    if made is None:
        return f"{whose}nothing to fill from: no pipeline has built features yet; the definitions are registered"
    return f"{whose}online store as of {made.as_of}: {described(made.filled)}"


if __name__ == "__main__":
    sys.exit(main())
