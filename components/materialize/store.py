"""`<home>/feast`: a Feast repository made from `feature_repo/`, its registry, and an online store replaced whole.

Nothing imports `feature_repo`: it is a folder of definitions that is run, as `feast apply` does. Whoever reads features
opens `FeatureStore(<home>/feast)` and asks for the service by name. Feast is imported only when there is work to do.
"""

from __future__ import annotations

import os
import runpy
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq

from millrace.atomic import sha256_text, write_text
from millrace.feast_home import online_database, record_fill, repository
from millrace.fraud import features

if TYPE_CHECKING:
    from feast import FeatureStore

FEATURE_REPO: Final = Path(__file__).parents[2] / "feature_repo"
VIEWS: Final = ("customer_state", "terminal_state")


def fill(home: Path, sources: Path, identity: str) -> None:
    """Point Feast's batch sources at `sources`, apply the definitions when they changed, replace the online store.

    The new content is written aside by Feast and then swapped in within one transaction: a reader sees the old store
    or the new one, and servers that have it open see the new one without a restart.
    """
    _into(home, sources, identity, _swap)


def renew(home: Path, sources: Path, identity: str) -> None:
    """As `fill`, but of two states of an entity the newer one stays: what has been pushed since is kept."""
    _into(home, sources, identity, _merge)


def _into(home: Path, sources: Path, identity: str, put: Callable[[Path, Path, str], None]) -> None:
    _link(repository(home) / "sources", sources.resolve())
    if not applied(home):
        _apply(home)
    with tempfile.TemporaryDirectory(prefix="millrace-online-") as aside:
        store = _apply(Path(aside), sources_of=home)
        for view in VIEWS:
            store.write_to_online_store(view, pq.read_table(sources / f"{view}.parquet").to_pandas())
        put(online_database(Path(aside)), online_database(home), identity)


def _apply(home: Path, sources_of: Path | None = None) -> FeatureStore:
    """Render `feature_store.yaml` into `<home>/feast` and register the definitions there."""
    from feast import FeatureStore

    folder = repository(home)
    write_text(folder / "feature_store.yaml", _configuration(home))
    store = FeatureStore(repo_path=str(folder))
    register(store, sources_of or home)
    write_text(folder / "applied", _fingerprint(home))
    return store


def register(store: FeatureStore, home: Path) -> None:
    """Entities, views and service into the store's registry, over the batch sources of a home."""
    namespace = runpy.run_path(str(FEATURE_REPO / "definitions.py"))
    store.apply([namespace["customer"], namespace["terminal"], *namespace["define"](home)])
    store.refresh_registry()  # type: ignore[no-untyped-call]


def applied(home: Path) -> bool:
    """Whether the registry holds the definitions as they are now."""
    marker = repository(home) / "applied"
    return (
        (repository(home) / "registry.db").is_file() and marker.is_file() and marker.read_text() == _fingerprint(home)
    )


def _fingerprint(home: Path) -> str:
    """Hash of all that the registered definitions follow from."""
    definitions = (FEATURE_REPO / "definitions.py").read_text()
    names: tuple[Any, ...] = (features.FEATURE_SERVICE, features.CUSTOMER_STATE_FIELDS, features.TERMINAL_STATE_FIELDS)
    return sha256_text(_configuration(home), definitions, repr(names), version("feast"))


def _configuration(home: Path) -> str:
    template = Template((FEATURE_REPO / "feature_store.yaml").read_text())
    return template.substitute(MILLRACE_HOME=home.resolve())


def _swap(new: Path, live: Path, identity: str) -> None:
    """Give `live` the tables of `new`, and `identity`, in one transaction."""
    with _writing(live, new) as connection:
        objects = connection.execute("SELECT type, name, sql FROM aside.sqlite_master WHERE sql IS NOT NULL").fetchall()
        for kind, name, _ in objects:
            connection.execute(f'DROP {kind} IF EXISTS main."{name}"')
        for kind, name, definition in sorted(objects, key=lambda item: item[0] != "table"):
            connection.execute(definition)
            if kind == "table":
                connection.execute(f'INSERT INTO main."{name}" SELECT * FROM aside."{name}"')
        record_fill(connection, identity)


def _merge(new: Path, live: Path, identity: str) -> None:
    """Give `live` what `new` holds of entities that it does not know, or knows as of an earlier time."""
    with _writing(live, new) as connection:
        for (name,) in connection.execute("SELECT name FROM aside.sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(
                f'DELETE FROM main."{name}" WHERE EXISTS (SELECT 1 FROM aside."{name}" AS other WHERE '
                f'other.entity_key = "{name}".entity_key AND other.event_ts > "{name}".event_ts)'
            )
            connection.execute(f'INSERT OR IGNORE INTO main."{name}" SELECT * FROM aside."{name}"')
        record_fill(connection, identity)


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


def _link(link: Path, target: Path) -> None:
    """Make `link` lead to `target`, whatever it led to before, without a moment in between."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(link)
