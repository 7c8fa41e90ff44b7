"""The prediction log as tables: one row per scored event of any workload, and the labels that arrive later.

Rows are written once by `prediction_id`, however often an event comes; a label's history is kept, so that a reader can
ask what was known at an instant. SQLite on a laptop, PostgreSQL in a cluster, the same statements on both. What a row
says is `millrace.events.prediction`'s; the schema's history is `migrations`; reading is `millrace.events.table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from millrace import instants
from millrace.errors import ConfigError, InvalidInput, MillraceError, Unavailable
from millrace.events.prediction import feed_column
from millrace.settings import Settings

BUSY_TIMEOUT_S: Final = 10
"""What a SQLite writer waits for another one, and PostgreSQL's driver for a connection."""
IDS_PER_QUERY: Final = 500
"""SQLite takes a limited number of parameters."""
MIGRATION_LOCK: Final = 0x6D696C6C
"""PostgreSQL's advisory lock that migrations hold: two services may start at once."""


DOCUMENTS: Final = ("keys", "fields", "features")
"""Columns of a prediction that are JSON."""
FIRST_WORD: Final = "ON CONFLICT DO NOTHING"
NEWEST_WORD: Final = (
    "ON CONFLICT (workload, event_id, label_timestamp) DO UPDATE SET value = excluded.value "
    "WHERE labels.value <> excluded.value"
)


class Instant(sa.TypeDecorator[datetime]):
    """UTC: TIMESTAMPTZ in PostgreSQL, integer microseconds since 1970 in SQLite, which has no type for it."""

    impl = sa.BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        timestamps = dialect.name == "postgresql"
        return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True) if timestamps else sa.BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else microseconds(value)

    def process_result_value(self, value: Any, _dialect: sa.Dialect) -> datetime | None:
        instant: datetime | None = value if isinstance(value, datetime | None) else instants.instant_of(value)
        return instant


TABLES: Final = sa.MetaData()

PREDICTIONS: Final = sa.Table(
    "predictions",
    TABLES,
    sa.Column("prediction_id", sa.Text, primary_key=True),  # the CloudEvent's id
    sa.Column("request_id", sa.Text),
    sa.Column("scored_at", Instant, nullable=False, index=True),
    sa.Column("workload", sa.Text, nullable=False),
    sa.Column("event_id", sa.BigInteger),
    sa.Column("event_timestamp", Instant),
    sa.Column("keys", sa.Text),  # JSON: key column → id or pseudonym
    sa.Column("fields", sa.Text),  # JSON: what else is kept of the request
    sa.Column("feed_key", sa.Text),  # the key of the entity whose ranges are watched
    sa.Column("model_name", sa.Text),
    sa.Column("model_version", sa.Text),
    sa.Column("score", sa.Double),
    sa.Column("low", sa.Double),
    sa.Column("high", sa.Double),
    sa.Column("decision", sa.Text),
    sa.Column("degraded", sa.Boolean),
    sa.Column("stage", sa.Text),
    sa.Column("arm", sa.Text),
    sa.Column("latency_ms", sa.Double),
    sa.Column("features", sa.Text),  # JSON: a list of numbers and nulls
    sa.Column("feature_service", sa.Text),
    sa.Column("traceparent", sa.Text),
    sa.Column("dry_run", sa.Boolean),  # null: no trial
    sa.Index("ix_predictions_event", "workload", "event_id"),
)
"""What KServe's logger does not say is null; the transformer's own events say everything that their task has."""

NO_TRIAL: Final = sa.or_(PREDICTIONS.c.dry_run.is_(None), PREDICTIONS.c.dry_run.is_(False))

LABELS: Final = sa.Table(
    "labels",
    TABLES,
    sa.Column("workload", sa.Text, primary_key=True),
    sa.Column("event_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("label_timestamp", Instant, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),  # 0 or 1 for classes, else the quantity
)
"""A label counts from `label_timestamp` on, until a later one of the same event."""

HALVES: Final = sa.Table(
    "inference_halves",
    TABLES,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("received_at", Instant, nullable=False, index=True),
    sa.Column("rows", sa.Text, nullable=False),
)
"""Requests of KServe's logger that wait for their response, and the reverse; `rows` is JSON."""


def engine(settings: Settings) -> sa.Engine:
    """The log of this home, migrated by `migrate`; raises ConfigError for a URL that cannot be used."""
    text = settings.prediction_log_url.get_secret_value()
    if not text:
        return _sqlite(sa.URL.create("sqlite", database=str(settings.prediction_log / "log.db")))

    wanted = "wanted sqlite:///path or postgresql://user@host/database"
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"MILLRACE_PREDICTION_LOG_URL is no database URL; {wanted}") from error

    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return _sqlite(url)
    if url.get_backend_name() != "postgresql":
        raise ConfigError(f"MILLRACE_PREDICTION_LOG_URL is {url.render_as_string(hide_password=True)!r}; {wanted}")

    options = {"connect_timeout": BUSY_TIMEOUT_S, "application_name": "millrace"}
    return sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args=options)


def migrate(log: sa.Engine) -> None:
    """Bring the tables to this code's schema; safe to call at every start, by several processes at once.

    Raises ConfigError for a log that an older Millrace made.
    """
    from alembic import command

    config = _alembic()
    with transaction(log) as connection:
        if log.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        _refuse_old(connection, config, log)
        command.upgrade(config, "head")


@contextmanager
def transaction(log: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction of a writer; raises Unavailable when the database is away, locked or full.

    InvalidInput when it is there and refuses a value.
    """
    try:
        with log.begin() as connection:
            if log.dialect.name == "sqlite":
                # Writers queue here; a transaction that reads first and writes later would fail instead.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
    except DBAPIError as error:
        raise _as_ours(log, error) from error


def require_ours(log: sa.Engine) -> None:
    """Raise ConfigError for tables that an older Millrace made, Unavailable when the database is away."""
    with reading(log) as connection:
        _refuse_old(connection, _alembic(), log)


def write_predictions(log: sa.Engine, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows whose `prediction_id` is new, all or none; how many were. Columns that a row lacks are null.

    Instants are datetimes with a zone, `keys` and `fields` mappings, `features` a list. Raises Unavailable, and
    InvalidInput for an unknown column.
    """
    with transaction(log) as connection:
        return insert_predictions(connection, rows)


def insert_predictions(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """`write_predictions` inside a transaction."""
    return _insert(connection, PREDICTIONS, [_stored(row) for row in rows], FIRST_WORD)


def _stored(row: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction as its table has it: what is no number or text becomes JSON."""
    stored = dict(row)
    if row.get("keys") is not None:
        stored["feed_key"] = row["keys"].get(feed_column(row["workload"]))
    for name in DOCUMENTS:
        if row.get(name) is not None:
            stored[name] = orjson.dumps(row[name]).decode()
    return stored


def add_halves(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Rows of `inference_halves`, inside a transaction; one that waits already stays as it is."""
    return _insert(connection, HALVES, rows, FIRST_WORD)


def write_labels(log: sa.Engine, rows: Iterable[Mapping[str, Any]]) -> int:
    """Insert labels {workload, event_id, label_timestamp, value}, all or none; how many said something new.

    One for the same event and instant replaces what was said before.
    """
    with transaction(log) as connection:
        return insert_labels(connection, rows)


def insert_labels(connection: sa.Connection, rows: Iterable[Mapping[str, Any]]) -> int:
    """`write_labels` inside a transaction."""
    latest = {(row["workload"], row["event_id"], row["label_timestamp"]): row for row in rows}
    return _insert(connection, LABELS, list(latest.values()), NEWEST_WORD)


def news(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of `rows` that differ from the newest label of their event: for labels that came without a time."""
    said: dict[tuple[str, int], float] = {}
    for workload in {row["workload"] for row in rows}:
        ids = [row["event_id"] for row in rows if row["workload"] == workload]
        for match in _matches(LABELS, workload, ids):
            query = sa.select(LABELS.c.event_id, LABELS.c.value).where(*match).order_by(LABELS.c.label_timestamp)
            said |= {(workload, row.event_id): row.value for row in connection.execute(query)}
    return [row for row in rows if said.get((row["workload"], row["event_id"])) != row["value"]]


def prune(connection: sa.Connection, before: datetime, limit: int) -> tuple[int, int]:
    """Delete at most `limit` predictions scored before an instant, the oldest, inside a transaction: (those, labels).

    A label goes when no prediction of its event is left; one of an event that was never scored stays.
    """
    old = sa.select(PREDICTIONS.c.prediction_id).where(PREDICTIONS.c.scored_at < before)
    oldest = old.order_by(PREDICTIONS.c.scored_at).limit(limit)
    gone = sa.delete(PREDICTIONS).where(PREDICTIONS.c.prediction_id.in_(oldest))
    found = connection.execute(gone.returning(PREDICTIONS.c.workload, PREDICTIONS.c.event_id)).all()
    scored = sa.exists().where(PREDICTIONS.c.workload == LABELS.c.workload, PREDICTIONS.c.event_id == LABELS.c.event_id)

    labels = 0
    for workload in sorted({row.workload for row in found}):
        ids = [row.event_id for row in found if row.workload == workload and row.event_id is not None]
        for match in _matches(LABELS, workload, ids):
            labels += connection.execute(sa.delete(LABELS).where(*match, ~scored)).rowcount

    return len(found), labels


def _matches(table: sa.Table, workload: str, ids: Iterable[int]) -> Iterator[list[Any]]:
    """Conditions for these events, so many at a time as a query may have."""
    distinct = sorted(set(ids))
    for start in range(0, len(distinct), IDS_PER_QUERY):
        yield [table.c.workload == workload, table.c.event_id.in_(distinct[start : start + IDS_PER_QUERY])]


def find_version(log: sa.Engine, prediction_id: str, workload: str) -> str | None:
    """The version of a workload's model that made a prediction, by its id, its request's or its event's; the newest."""
    matches = [PREDICTIONS.c.prediction_id == prediction_id, PREDICTIONS.c.prediction_id == f"{prediction_id}:0"]
    if prediction_id.lstrip("-").isdecimal() and abs(int(prediction_id)) < 1 << 63:
        matches.append(PREDICTIONS.c.event_id == int(prediction_id))

    for match in matches:
        query = sa.select(PREDICTIONS.c.model_version).where(match, PREDICTIONS.c.workload == workload)
        with reading(log) as connection:
            newest = query.order_by(PREDICTIONS.c.scored_at.desc()).limit(1)
            version = connection.execute(newest).scalar()
        if version is not None:
            return str(version)
    return None


@contextmanager
def reading(log: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for reading; raises Unavailable when the database is away or has no such tables."""
    try:
        with log.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise _as_ours(log, error) from error


def microseconds(value: datetime) -> int:
    """Microseconds since 1970; raises InvalidInput for a datetime without a zone."""
    if value.tzinfo is None:
        raise InvalidInput(f"{value} has no time zone; wanted an instant, such as 2018-09-30T12:00:00Z")
    return instants.microseconds(value)


def _as_ours(log: sa.Engine, error: DBAPIError) -> MillraceError:
    where = log.url.render_as_string(hide_password=True)
    cause = (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
    if isinstance(error, DataError | IntegrityError):
        return InvalidInput(f"the prediction log at {where} refuses a value: {cause}")
    return Unavailable(
        f"the prediction log at {where} failed: {cause}. Check that it is up; "
        "`python -m serving.prediction_log migrate` makes its tables."
    )


def _insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], conflict: str) -> int:
    names = [str(column.name) for column in table.columns]  # exactly str: orjson takes no other
    for row in rows:
        unknown = row.keys() - set(names)
        if unknown:
            raise InvalidInput(f"{table.name} has no column {sorted(unknown)[0]!r}; wanted some of {', '.join(names)}")

    if not rows:
        return 0
    into = f"INSERT INTO {table.name} ({', '.join(names)})"
    whole = [{name: row.get(name) for name in names} for row in rows]

    if connection.dialect.name == "postgresql":
        # One parameter for all rows: twice the speed of executemany, an eighth of its CPU here.
        document = sa.bindparam("rows", orjson.dumps(whole).decode(), sa.Text)
        fill = f"SELECT {', '.join(names)} FROM json_populate_recordset(NULL::{table.name}, CAST(:rows AS json))"
        return connection.execute(sa.text(f"{into} {fill} {conflict}").bindparams(document)).rowcount

    values = f"VALUES ({', '.join(f':{name}' for name in names)})"
    typed = [sa.bindparam(column.name, type_=column.type) for column in table.columns]
    return connection.execute(sa.text(f"{into} {values} {conflict}").bindparams(*typed), whole).rowcount


def _alembic() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _refuse_old(connection: sa.Connection, config: Any, log: sa.Engine) -> None:
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    found = MigrationContext.configure(connection).get_current_heads()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if unknown := sorted(set(found) - known):
        where = log.url.render_as_string(hide_password=True)
        raise ConfigError(
            f"the prediction log at {where} is of another version of Millrace ({', '.join(unknown)}), which this one "
            "does not read. Begin a new home, or name another database in MILLRACE_PREDICTION_LOG_URL."
        )


def _sqlite(url: sa.URL) -> sa.Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    log = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    sa.event.listen(log, "connect", _configure_sqlite)
    return log


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """WAL: readers never wait for the writer. FULL: what is committed survives a power cut."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
