"""`python -m components.materialize.refresh`: a workload's generations of state as of now, from its feature sets.

For a schedule, as often as refreshed views are renewed. Every generation that a model version reads is refreshed:
champion, challenger, previous champion, and whatever has traffic. One that knows all events of its feature set gets the
states that changed; any other is filled. What has been pushed since is kept, in SQLite as in Redis.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from components.materialize.core import content_of, described, sources_of
from components.materialize.dropping import drop_unused
from components.materialize.renewal import knows_events, renew
from millrace.errors import InvalidInput, MillraceError, NotFound
from millrace.installed import load, names
from millrace.instants import last_refresh, start_of
from millrace.lake.atomic import exclusive
from millrace.lake.feast_home import filled_with, repository
from millrace.lake.manifest import Manifest, list_manifests
from millrace.observe.progress import log
from millrace.registry.generations import in_use
from millrace.settings import Settings, settings


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A generation: recent views as of `filled`, and what was pushed since; refreshed ones as of `as_of`."""

    generation: str
    filled: Manifest
    as_of: datetime


def refresh(configured: Settings, now: datetime) -> list[Refreshed]:
    """Bring every generation of the configured workload that is in use to the last refresh that there is by `now`.

    Empty when no model has been promoted. Raises NotFound when the lake has no feature set for one of them,
    InvalidInput when all data is later than `now`; the others are refreshed before.
    """
    drop_unused(configured)
    wanted = {one.generation: one for one in in_use(configured) if one.generation}
    refreshed = []
    errors: list[MillraceError] = []
    for one in wanted.values():
        try:
            source = _source_of(configured.lake, one.model)
            refreshed.append(refresh_generation(configured, one.generation, one.feature_service, now, source))
        except MillraceError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return refreshed


def refresh_generation(
    configured: Settings, generation: str, service: str, now: datetime, source: str | None = None
) -> Refreshed:
    """Bring one generation, which holds the states of a feature service, to the last refresh by `now`.

    Its data go on being those that it was filled from; `source` says which where it never was.
    """
    from components.materialize import serving_store

    home, serving, lake = configured.home, configured.feature_store, configured.lake
    workload = load(configured.workload)
    repo = repository(home, workload.name, generation)
    source = _source_filled(lake, filled_with(repo)) or source
    newest = newest_feature_set(lake, workload.name, service, source)
    if newest is None:
        raise NotFound(f"no feature set of {service} in {lake} for generation {generation}. Run a pipeline (make run).")

    as_of = newest_refresh(newest, now)
    filled = knows_events(newest, lake, repo, as_of)
    if filled is None or not (serving is None or serving_store.holds(serving, workload, generation, filled.fetch())):
        filled = _filled(newest, configured, generation, as_of)
    else:
        renew(newest, lake, repo, as_of, serving=serving)
    log(
        "online store refreshed",
        workload=workload.name,
        generation=generation,
        as_of=as_of,
        feature_set=newest.id,
        behind_h=round((now - as_of) / timedelta(hours=1), 1),
        online_store=filled.id,
    )
    return Refreshed(generation, filled, as_of)


def _filled(newest: Manifest, configured: Settings, generation: str, as_of: datetime) -> Manifest:
    """States of all views as of a refresh, into a generation of the home and of the store that serves."""
    from components.materialize import serving_store, store

    serving, workload = configured.feature_store, load(configured.workload)
    repo = repository(configured.home, workload.name, generation)
    made = sources_of(newest, configured.lake, as_of, configured.threads, configured.memory_limit_gb)
    with exclusive(repo / ".lock", f"filling generation {generation} of the online store of {configured.home}"):
        filled = filled_with(repo)
        if filled != made.id or not store.applied(repo, workload):
            put = store.fill if filled is None else store.renew
            put(repo, workload, made.fetch(), content_of(made))
        if serving is not None:
            serving_store.fill(serving, workload, repo, made.fetch(), content_of(made))
    return made


def newest_feature_set(lake: Path, workload: str, service: str, source: str | None) -> Manifest | None:
    """The one that reaches furthest, among those of a service and of a source; of any source where that is not known.

    A file that was scored in batch leaves a feature set too, and so does a run on other data; neither must become what
    is served.
    """
    found = [
        made
        for made in list_manifests(lake / "feature_sets", "feature_set")
        if (made.workload, made.facts["feature_service"]) == (workload, service)
        and (source is None or _source_of(lake, made) == source)
    ]
    return max(found, key=lambda made: (made.facts["last_day"], made.created_at), default=None)


def _source_filled(lake: Path, identity: str | None) -> str | None:
    """The source behind what a generation was filled from; None when it never was, or the lake has lost that."""
    filled = Manifest.find(lake, "online_store", identity) if identity else None
    return None if filled is None else _source_of(lake, filled)


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
        for line in _said(refresh(settings(name), now or datetime.now(UTC)), name):
            print(line)
    except MillraceError as error:
        print(f"error: {name}: {error}" if name else f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _said(made: list[Refreshed], name: str) -> list[str]:
    whose = f"{name}: " if name else ""
    lines = [f"{whose}generation {one.generation} as of {one.as_of}: {described(one.filled)}" for one in made]
    return lines or [f"{whose}no model has been promoted yet: there is no state to refresh"]


if __name__ == "__main__":
    sys.exit(main())
