"""`python -m components.materialize.refresh`: the online store as of now, from the newest feature set of the lake.

For a schedule, every hour. A store that knows all customers of that feature set gets the terminals that changed; any
other is filled. What has been pushed since is kept, in SQLite as in Redis.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from components.materialize.core import sources_of
from components.materialize.terminals import knows_customers, renew_terminals
from fraud.features import FEATURE_SERVICE, last_refresh
from millrace.errors import InvalidInput, MillraceError, NotFound
from millrace.lake.atomic import exclusive
from millrace.lake.feast_home import filled_with, repository
from millrace.lake.horizon import start_of
from millrace.lake.manifest import Manifest, list_manifests
from millrace.observe.progress import log
from millrace.settings import Settings, settings


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a store holds now: customers as of `filled`, and what was pushed since; terminals as of `terminals`."""

    filled: Manifest
    terminals: datetime


def refresh(configured: Settings, now: datetime) -> Refreshed | None:
    """Bring the store that serves to the last refresh that there is by `now`.

    None when the lake has no feature set yet and the store is not the home's own: then its definitions are registered,
    which servers wait for. Raises NotFound when it is the home's, InvalidInput when all data is later than `now`.
    """
    from components.materialize import serving_store

    home, serving, lake = configured.home, configured.feature_store, configured.lake
    newest = newest_feature_set(lake)
    if newest is None:
        _register(home, serving, lake)
        return None
    as_of = newest_refresh(newest, now)
    filled = knows_customers(newest, lake, home, as_of)
    if filled is None or not (serving is None or serving_store.holds(serving, filled.folder)):
        filled = _filled(newest, configured, as_of)
    else:
        renew_terminals(newest, lake, home, as_of, serving=serving)
    behind_h = round((now - as_of) / timedelta(hours=1), 1)
    log(
        "online store refreshed",
        terminals_as_of=as_of,
        feature_set=newest.id,
        behind_h=behind_h,
        online_store=filled.id,
    )
    return Refreshed(filled, as_of)


def _register(home: Path, serving: Path | None, lake: Path) -> None:
    """Definitions alone, where there is nothing to fill from."""
    from components.materialize import serving_store

    if serving is None:
        raise NotFound(f"no feature set of {FEATURE_SERVICE} in {lake}. Run a pipeline (make run).")
    with exclusive(repository(home) / ".lock", f"filling the online store of {home}"):
        serving_store.fill(serving, home, None)


def _filled(newest: Manifest, configured: Settings, as_of: datetime) -> Manifest:
    """Customers and terminals as of a refresh, into the store that serves."""
    from components.materialize import serving_store, store

    home, serving = configured.home, configured.feature_store
    with exclusive(repository(home) / ".lock", f"filling the online store of {home}"):
        made = sources_of(newest, configured.lake, as_of, configured.threads, configured.memory_limit_gb)
        if serving is not None:
            serving_store.fill(serving, home, made.folder)
        elif (filled := filled_with(home)) != made.id or not store.applied(home):
            put = store.fill if filled is None else store.renew
            put(home, made.folder, made.id)
    return made


def newest_feature_set(lake: Path) -> Manifest | None:
    """The one that reaches furthest, among those of this code's service and of the source that the store came from.

    A file that was scored in batch leaves a feature set too; it must not become what is served.
    """
    stores = list(list_manifests(lake / "online", "online_store"))
    source = _source_of(lake, stores[-1]) if stores else None
    found = [
        made
        for made in list_manifests(lake / "feature_sets", "feature_set")
        if made.facts["feature_service"] == FEATURE_SERVICE and (source is None or _source_of(lake, made) == source)
    ]
    return max(found, key=lambda made: (made.facts["last_day"], made.created_at), default=None)


def _source_of(lake: Path, made: Manifest) -> str | None:
    """URI that the snapshot behind an artifact was read from; None when the lake has lost that."""
    folder = lake / "snapshots" / made.parents.get("snapshot", "")
    snapshot = Manifest.find(folder, "snapshot")
    source = snapshot.facts.get("source", {}).get("uri") if snapshot is not None else None
    return str(source) if source else None


def newest_refresh(feature_set: Manifest, now: datetime) -> datetime:
    """The last refresh by `now` that the feature set holds: it reaches to the end of the day after its last."""
    first = start_of(date.fromisoformat(feature_set.facts["first_day"]))
    end = start_of(date.fromisoformat(max(feature_set.facts["tables"]["terminal_state"]))) + timedelta(days=1)
    instant = last_refresh(min(now.astimezone(UTC), end - timedelta(microseconds=1)))
    if instant < first:
        raise InvalidInput(f"now is {now.isoformat()}; feature set {feature_set.id} begins on {first.date()}")
    return instant


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the store is as fresh as the lake allows; 2 on an error, which goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m components.materialize.refresh", description=__doc__)
    parser.add_argument("--now", type=datetime.fromisoformat, help="ISO 8601 instant with a time zone (default: now)")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.now is not None and parsed.now.tzinfo is None:
            raise InvalidInput(f"--now is {parsed.now}; wanted its time zone too, such as {parsed.now}+00:00")
        made = refresh(settings(), parsed.now or datetime.now(UTC))
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if made is None:
        print("nothing to fill from: no pipeline has built features yet; the definitions are registered")
        return 0
    facts = made.filled.facts
    print(f"online store as of {made.terminals}: {facts['customers']} customers, {facts['terminals']} terminals")
    return 0


if __name__ == "__main__":
    sys.exit(main())
