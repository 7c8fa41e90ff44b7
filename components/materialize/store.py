"""A generation: a Feast repository made from `feature_repo/`, whose online store is replaced whole.

Nothing imports `feature_repo`: it is a folder of definitions that is run, as `feast apply` does. Whoever reads features
opens that folder and asks for the service by name. Feast is imported only when there is work to do.
"""

from __future__ import annotations

import json
import runpy
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from millrace.features.events import engine
from millrace.fields import View
from millrace.installed import Workload
from millrace.lake.atomic import replace_link, sha256_text, write_text
from millrace.lake.feast_home import CONFIGURATION, DATABASE, Fill, record_fill

if TYPE_CHECKING:
    from feast import FeatureStore

FEATURE_REPO: Final = Path(__file__).parents[2] / "feature_repo"
SOURCES: Final = "sources"
"""Link in a generation to the Parquet that it was filled from last."""


def fill(repo: Path, workload: Workload, sources: Path, content: Fill, aside: Aside | None = None) -> None:
    """Point Feast's batch sources at `sources`, apply the definitions when they changed, replace the online store.

    The new content is written aside by Feast and then swapped in within one transaction: a reader sees the old store
    or the new one, and servers that have it open see the new one without a restart. Who fills often keeps one `aside`.
    """
    _into(repo, workload, sources, content, _swap, aside)


def renew(repo: Path, workload: Workload, sources: Path, content: Fill) -> None:
    """Like `fill`, but of two states of an entity the newer one stays: what has been pushed since is kept."""
    _into(repo, workload, sources, content, _merge)


def _into(
    repo: Path,
    workload: Workload,
    sources: Path,
    content: Fill,
    put: Callable[[Path, Path, Fill], None],
    kept: Aside | None = None,
) -> None:
    repo.mkdir(parents=True, exist_ok=True)
    replace_link(repo / SOURCES, sources.resolve())
    if not applied(repo, workload):
        _apply(repo, workload)
    with ExitStack() as stack:
        aside = kept or stack.enter_context(closing(Aside(workload)))
        put(aside.write(sources), repo / DATABASE, content)


def replace_rows(repo: Path, rows: Mapping[str, pa.Table], content: Fill, aside: Aside) -> None:
    """Put states, by view, in place of those of the same entities in a generation, at once; it holds `content` then."""
    with _writing(repo / DATABASE, aside.write_rows(rows, (repo / SOURCES).resolve())) as connection:
        for (name,) in connection.execute("SELECT name FROM aside.sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f'DELETE FROM main."{name}" WHERE entity_key IN (SELECT entity_key FROM aside."{name}")')
            connection.execute(f'INSERT INTO main."{name}" SELECT * FROM aside."{name}"')
        record_fill(connection, content)


class Aside:
    """An online store beside a generation's, written by Feast, whose content then goes into the generation's.

    Kept from fill to fill by one process, it imports Feast and registers the definitions once, and is given only the
    states that differ from those it holds.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._store: FeatureStore | None = None
        self._holds: Path | None = None
        """The sources whose states these are; None while that is not sure."""

    def write(self, sources: Path) -> Path:
        """Make it hold the states of `sources` and no others; its database."""
        if self._holds != sources:
            self._change(sources)
        return self._database

    def write_rows(self, rows: Mapping[str, pa.Table], sources: Path) -> Path:
        """Make it hold these states, by view, and nothing else; its database. `sources`: files with these columns."""
        self._holds = None
        store = self._store or self._anew(sources)

        with closing(sqlite3.connect(self._database)) as connection, connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                connection.execute(f'DELETE FROM "{name}"')
        for view, states in rows.items():
            if states:
                store.write_to_online_store(view, states.to_pandas())
        return self._database

    @property
    def _database(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / DATABASE

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = self._store = self._holds = None

    def _change(self, sources: Path) -> None:
        before, self._holds = self._holds, None
        rows = {} if before is None else self._differing(before, sources)
        store = self._store
        if store is None or not rows or None in rows.values():
            store = self._anew(sources)
            rows = {view.name: pq.read_table(_file(sources, view)) for view in self.workload.features.VIEWS}
        for view, states in rows.items():
            if states:
                store.write_to_online_store(view, states.to_pandas())
        self._holds = sources

    def _differing(self, before: Path, after: Path) -> dict[str, pa.Table | None]:
        views = self.workload.features.VIEWS
        return {view.name: _changed(before, after, view, self.workload.entity(view.entity).key) for view in views}

    def _anew(self, sources: Path) -> FeatureStore:
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="millrace-online-")
        (Path(self._folder.name) / SOURCES).symlink_to(sources.resolve())
        self._store = _apply(Path(self._folder.name), self.workload)
        return self._store


def _changed(before: Path, after: Path, view: View, key: str) -> pa.Table | None:
    """The states of `after` that `before` has not, or has otherwise; None where it has entities that are gone."""
    old, new = (_file(sources, view) for sources in (before, after))
    if not old.is_file():
        return None

    with engine(1, 1.0) as connection:
        rows = "SELECT {} FROM read_parquet(?) EXCEPT SELECT {} FROM read_parquet(?)"
        names = [str(new), str(old)]
        if connection.execute(rows.format(key, key), names[::-1]).fetchone():
            return None
        changed = connection.execute(f"SELECT {key} FROM ({rows.format('*', '*')})", names).fetchall()

    table = pq.read_table(new)
    return table.filter(pc.is_in(table[key], pa.array([row[0] for row in changed], table.schema.field(key).type)))


def _file(sources: Path, view: View) -> Path:
    return sources / f"{view.name}.parquet"


def _apply(repo: Path, workload: Workload) -> FeatureStore:
    """Render `feature_store.yaml` into a generation's folder and register the definitions there."""
    from feast import FeatureStore

    write_text(repo / CONFIGURATION, _configuration(repo, workload))
    store = FeatureStore(repo_path=str(repo))
    register(store, workload, repo)
    write_text(repo / "applied", _fingerprint(repo, workload))
    return store


def register(store: FeatureStore, workload: Workload, repo: Path) -> None:
    """Entities, views and service into the store's registry, over the batch sources of a generation.

    Raises ConfigError when two views have a field of one name.
    """
    define = runpy.run_path(str(FEATURE_REPO / "definitions.py"))["define"]
    store.apply(define(workload, repo))
    store.refresh_registry()  # type: ignore[no-untyped-call]


def applied(repo: Path, workload: Workload) -> bool:
    """Whether the registry holds the definitions as they are now."""
    marker = repo / "applied"
    if not (repo / "registry.db").is_file() or not marker.is_file():
        return False

    return marker.read_text(encoding="utf-8") == _fingerprint(repo, workload)


def _fingerprint(repo: Path, workload: Workload) -> str:
    """Hash of all that the registered definitions follow from."""
    definitions = (FEATURE_REPO / "definitions.py").read_text(encoding="utf-8")
    features = workload.features
    names: tuple[Any, ...] = (features.FEATURE_SERVICE, features.VIEWS, workload.schema.ENTITIES)
    return sha256_text(_configuration(repo, workload), definitions, repr(names), version("feast"))


def _configuration(repo: Path, workload: Workload) -> str:
    template = Template((FEATURE_REPO / CONFIGURATION).read_text(encoding="utf-8"))
    escaped = json.dumps(str(repo.resolve()), ensure_ascii=False)[1:-1]  # between quotes of YAML, which are JSON's
    return template.substitute(MILLRACE_GENERATION=escaped, MILLRACE_WORKLOAD=workload.name)


def _swap(new: Path, live: Path, content: Fill) -> None:
    """Give `live` the tables of `new`, and say so, in one transaction."""
    with _writing(live, new) as connection:
        objects = connection.execute("SELECT type, name, sql FROM aside.sqlite_master WHERE sql IS NOT NULL").fetchall()
        for kind, name, _ in objects:
            connection.execute(f'DROP {kind} IF EXISTS main."{name}"')
        for kind, name, definition in sorted(objects, key=lambda item: item[0] != "table"):
            connection.execute(definition)
            if kind == "table":
                connection.execute(f'INSERT INTO main."{name}" SELECT * FROM aside."{name}"')
        record_fill(connection, content)


def _merge(new: Path, live: Path, content: Fill) -> None:
    """Give `live` what `new` holds of entities that it does not know, or knows as of an earlier time."""
    with _writing(live, new) as connection:
        for (name,) in connection.execute("SELECT name FROM aside.sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(
                f'DELETE FROM main."{name}" WHERE EXISTS (SELECT 1 FROM aside."{name}" AS other WHERE '
                f'other.entity_key = "{name}".entity_key AND other.event_ts > "{name}".event_ts)'
            )
            connection.execute(f'INSERT OR IGNORE INTO main."{name}" SELECT * FROM aside."{name}"')
        record_fill(connection, content)


@contextmanager
def _writing(live: Path, new: Path) -> Iterator[sqlite3.Connection]:
    """`live` as main and `new` as aside, within one transaction."""
    with closing(sqlite3.connect(live, isolation_level=None, timeout=30)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # readers go on while the new content is written
        connection.execute("ATTACH ? AS aside", [str(new)])
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
