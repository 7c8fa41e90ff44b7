"""The prediction log as tables: one row per scored transaction, and the labels that arrive later.

Rows are written once by `event_id`, however often an event comes; a label's history is kept, so that a reader can ask
what was known at an instant. SQLite on a laptop, PostgreSQL in a cluster, the same statements on both. Receiving events
is `serving/prediction_log`; the schema's history is `millrace/events/migrations`; reading is `millrace.events.table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from millrace.errors import ConfigError, InvalidInput, MillraceError, Unavailable
from millrace.settings import Settings

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
BUSY_TIMEOUT_S: Final = 10
"""What a SQLite writer waits for another one, and PostgreSQL's driver for a connection."""
IDS_PER_QUERY: Final = 500
"""SQLite takes a limited number of parameters."""
MIGRATION_LOCK: Final = 0x6D696C6C
"""PostgreSQL's advisory lock that migrations hold: two services may start at once."""


FIRST_WORD: Final = "ON CONFLICT DO NOTHING"
NEWEST_WORD: Final = (
    "ON CONFLICT (transaction_id, label_timestamp) DO UPDATE SET is_fraud = excluded.is_fraud "
    "WHERE labels.is_fraud <> excluded.is_fraud"
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
        instant: datetime | None = value if isinstance(value, datetime | None) else EPOCH + MICROSECOND * value
        return instant


TABLES: Final = sa.MetaData()

PREDICTIONS: Final = sa.Table(
    "predictions",
    TABLES,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Text),
    sa.Column("scored_at", Instant, nullable=False, index=True),
    sa.Column("transaction_id", sa.BigInteger, index=True),
    sa.Column("event_timestamp", Instant),
    sa.Column("customer_id", sa.Text),  # a pseudonym
    sa.Column("terminal_id", sa.Text),
    sa.Column("amount", sa.Double),
    sa.Column("model_name", sa.Text),
    sa.Column("model_version", sa.Text),
    sa.Column("score", sa.Double),
    sa.Column("decision", sa.Text),
    sa.Column("degraded", sa.Boolean),
    sa.Column("stage", sa.Text),
    sa.Column("arm", sa.Text),
    sa.Column("latency_ms", sa.Double),
    sa.Column("features", sa.Text),  # JSON: a list of numbers and nulls
    sa.Column("feature_service", sa.Text),
    sa.Column("traceparent", sa.Text),
)
"""What KServe's logger does not say is null; the transformer's own events say everything."""

LABELS: Final = sa.Table(
    "labels",
    TABLES,
    sa.Column("transaction_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("label_timestamp", Instant, primary_key=True),
    sa.Column("is_fraud", sa.Boolean, nullable=False),
)
"""A label counts from `label_timestamp` on, until a later one of the same transaction."""

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
    """Bring the tables to this code's schema; safe to call at every start, by several processes at once."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with transaction(log) as connection:
        if log.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        config.attributes["connection"] = connection
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


def write_predictions(log: sa.Engine, rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert rows whose `event_id` is new, all or none; how many were. Columns that a row lacks are null.

    Instants are datetimes with a zone, `features` a JSON text. Raises Unavailable, InvalidInput for an unknown column.
    """
    with transaction(log) as connection:
        return insert_predictions(connection, rows)


def insert_predictions(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """`write_predictions` inside a transaction."""
    return _insert(connection, PREDICTIONS, rows, FIRST_WORD)


def add_halves(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> int:
    """Rows of `inference_halves`, inside a transaction; one that waits already stays as it is."""
    return _insert(connection, HALVES, rows, FIRST_WORD)


def write_labels(log: sa.Engine, rows: Iterable[Mapping[str, Any]]) -> int:
    """Insert labels {transaction_id, label_timestamp, is_fraud}, all or none; how many said something new.

    One for the same transaction and instant replaces what was said before.
    """
    with transaction(log) as connection:
        return insert_labels(connection, rows)


def insert_labels(connection: sa.Connection, rows: Iterable[Mapping[str, Any]]) -> int:
    """`write_labels` inside a transaction."""
    latest = {(row["transaction_id"], row["label_timestamp"]): row for row in rows}
    return _insert(connection, LABELS, list(latest.values()), NEWEST_WORD)


def news(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of `rows` that differ from the newest label of their transaction: for labels that came without a time."""
    said: dict[int, bool] = {}
    ids = sorted({row["transaction_id"] for row in rows})
    for start in range(0, len(ids), IDS_PER_QUERY):
        match = LABELS.c.transaction_id.in_(ids[start : start + IDS_PER_QUERY])
        query = sa.select(LABELS.c.transaction_id, LABELS.c.is_fraud).where(match).order_by(LABELS.c.label_timestamp)
        said |= {row.transaction_id: row.is_fraud for row in connection.execute(query)}
    return [row for row in rows if said.get(row["transaction_id"]) != row["is_fraud"]]


def prune(connection: sa.Connection, before: datetime, limit: int) -> tuple[int, int]:
    """Delete at most `limit` predictions scored before an instant, the oldest, inside a transaction: (those, labels).

    A label goes when no prediction of its transaction is left; one of a transaction that was never scored stays.
    """
    old = sa.select(PREDICTIONS.c.event_id).where(PREDICTIONS.c.scored_at < before)
    oldest = old.order_by(PREDICTIONS.c.scored_at).limit(limit)
    gone = sa.delete(PREDICTIONS).where(PREDICTIONS.c.event_id.in_(oldest)).returning(PREDICTIONS.c.transaction_id)
    found = connection.execute(gone).scalars().all()
    ids = sorted({identity for identity in found if identity is not None})
    scored = sa.exists().where(PREDICTIONS.c.transaction_id == LABELS.c.transaction_id)
    labels = 0
    for start in range(0, len(ids), IDS_PER_QUERY):
        match = LABELS.c.transaction_id.in_(ids[start : start + IDS_PER_QUERY])
        labels += connection.execute(sa.delete(LABELS).where(match, ~scored)).rowcount
    return len(found), labels


def find_version(log: sa.Engine, prediction_id: str) -> str | None:
    """The model version that made a prediction, by event id, request id or transaction id; the newest if several."""
    matches = [PREDICTIONS.c.event_id == prediction_id, PREDICTIONS.c.event_id == f"{prediction_id}:0"]
    if prediction_id.lstrip("-").isdecimal() and abs(int(prediction_id)) < 1 << 63:
        matches.append(PREDICTIONS.c.transaction_id == int(prediction_id))
    for match in matches:
        query = sa.select(PREDICTIONS.c.model_version).where(match).order_by(PREDICTIONS.c.scored_at.desc()).limit(1)
        with reading(log) as connection:
            if (version := connection.execute(query).scalar()) is not None:
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
    return (value - EPOCH) // MICROSECOND


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
        if unknown := row.keys() - set(names):
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


def _sqlite(url: sa.URL) -> sa.Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    log = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    sa.event.listen(log, "connect", _configure_sqlite)
    return log


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """WAL: readers never wait for the writer. FULL: what is committed survives a power cut."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
