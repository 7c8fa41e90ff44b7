"""`python -m components.materialize.refresh`: the online store as of now, from the newest feature set of the lake.

For a schedule: terminal states are renewed four times a day. What has been pushed since is kept, in SQLite as in Redis.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from components.materialize.core import sources_of, states_in
from millrace.artifacts import Manifest, list_manifests
from millrace.atomic import exclusive
from millrace.errors import InvalidInput, MillraceError, NotFound
from millrace.feast_home import filled_with, repository
from millrace.fraud.features import FEATURE_SERVICE, last_refresh
from millrace.horizon import start_of
from millrace.progress import log
from millrace.settings import Settings, settings


def refresh(configured: Settings, now: datetime) -> Manifest | None:
    """Fill the store that serves as of the last refresh that there is by `now`; returns what it was filled from.

    None when the lake has no feature set yet and the store is not the home's own: then its definitions are registered,
    which servers wait for. Raises NotFound when it is the home's, InvalidInput when all data is later than `now`.
    """
    from components.materialize import serving_store, store

    home, serving = configured.home, configured.feature_store
    with exclusive(repository(home) / ".lock", f"filling the online store of {home}"):
        newest = newest_feature_set(configured.lake)
        if newest is None:
            if serving is None:
                raise NotFound(f"no feature set of {FEATURE_SERVICE} in {configured.lake}. Run a pipeline (make run).")
            serving_store.fill(serving, home, None)
            return None
        as_of = newest_refresh(newest, now)
        made = sources_of(newest, configured.lake, as_of, configured.threads, configured.memory_limit_gb)
        if serving is not None:
            serving_store.fill(serving, home, made.folder)
        elif (filled := filled_with(home)) != made.id or not store.applied(home):
            put = store.fill if filled is None else store.renew
            put(home, made.folder, made.id)
    behind_h = round((now - as_of) / timedelta(hours=1), 1)
    log("online store refreshed", online_store=made.id, feature_set=newest.id, behind_h=behind_h, **states_in(made))
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
    if not (folder / "manifest.json").is_file():
        return None
    source = Manifest.read(folder, "snapshot").facts.get("source", {}).get("uri")
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
    facts = made.facts
    print(f"online store as of {facts['as_of']}: {facts['customers']} customers, {facts['terminals']} terminals")
    return 0


if __name__ == "__main__":
    sys.exit(main())
