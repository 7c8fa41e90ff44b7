"""Tables of databases as delimited text: `postgresql://user:password@host/db?table=events`, or `&query=SELECT …`.

Any SQLAlchemy URL, or `duckdb:path/to/file.db?table=events`. Without a table, the only one there is is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from millrace.errors import ConfigError, InvalidInput, Unavailable
from millrace.reading.document import ReadOptions
from millrace.reading.spool import Spool, delimited
from millrace.uris import redacted

_DIALECTS: Final = ("duckdb", "sqlite", "postgresql", "postgres", "mysql", "mariadb", "oracle", "mssql", "snowflake",
                    "bigquery", "redshift")  # fmt: skip
_DRIVERS: Final = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
_ROWS_AT_ONCE: Final = 20_000
_OURS: Final = ("table", "query")


def is_database(source: str) -> bool:
    """Whether a source is the URL of a database rather than a path or fsspec's URI."""
    scheme, colon, rest = source.partition(":")
    return bool(colon) and scheme.partition("+")[0] in _DIALECTS and (rest.startswith("//") or scheme == "duckdb")


def shown_table(uri: str) -> str:
    """A table as it may be shown and kept: without the password."""
    base, wanted = _parts(uri)
    what = wanted.get("table") or ("a query" if "query" in wanted else "its table")
    return f"{redacted(base)} ({what})"


def table_text(uri: str, read: ReadOptions) -> Spool:
    """The rows of a table or query; raises InvalidInput, ConfigError for a driver that is missing, Unavailable."""
    base, wanted = _parts(uri)
    rows = _duckdb(base, wanted) if base.startswith("duckdb:") else _sqlalchemy(base, wanted)
    return delimited(rows, read.decimal)


def _parts(uri: str) -> tuple[str, dict[str, str]]:
    """The URL of the database, and what is wanted of it."""
    parts = urlsplit(uri)
    given = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    others = "&".join(f"{name}={quote(value)}" for name, value in given.items() if name not in _OURS)
    base = uri.partition("?")[0] + (f"?{others}" if others else "")
    return base, {name: value for name, value in given.items() if name in _OURS}


def _duckdb(base: str, wanted: dict[str, str]) -> Iterator[Sequence[Any]]:
    import duckdb

    path = unquote(base.removeprefix("duckdb:"))
    path = path[3:] if path.startswith("///") else path  # as SQLAlchemy has it: a fourth slash is the path's own
    try:
        with duckdb.connect(path, read_only=True) as connection:
            tables = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
            cursor = connection.execute(_query(base, wanted, tables))
            yield [column[0] for column in cursor.description or ()]
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                yield from rows
    except duckdb.Error as error:
        raise InvalidInput(f"{redacted(base)} cannot be read: {error}") from error


def _sqlalchemy(base: str, wanted: dict[str, str]) -> Iterator[Sequence[Any]]:
    try:
        import sqlalchemy as sa  # databases alone need it
    except ImportError as error:
        raise ConfigError(f"{redacted(base)}: reading a database needs sqlalchemy: {error}") from error

    scheme, _, rest = base.partition(":")
    try:
        engine = sa.create_engine(f"{_DRIVERS.get(scheme, scheme)}:{rest}")
        with closing(_Disposed(engine)), engine.connect() as connection:
            tables = [] if wanted else sa.inspect(connection).get_table_names()
            streamed = connection.execution_options(stream_results=True, yield_per=_ROWS_AT_ONCE)
            result = streamed.execute(sa.text(_query(base, wanted, tables)))
            yield list(result.keys())
            yield from result
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        raise ConfigError(f"{redacted(base)}: its driver is not installed: {error}") from error
    except sa.exc.OperationalError as error:
        raise Unavailable(f"{redacted(base)} cannot be read: {redacted(str(error.orig))}") from error
    except sa.exc.SQLAlchemyError as error:
        raise InvalidInput(f"{redacted(base)} cannot be read: {redacted(str(error))}") from error


class _Disposed:
    """Closes what an engine keeps open."""

    def __init__(self, engine: Any) -> None:
        self.close = engine.dispose


def _query(base: str, wanted: dict[str, str], tables: list[str]) -> str:
    if "query" in wanted:
        return wanted["query"]
    if "table" not in wanted and len(tables) != 1:
        raise InvalidInput(
            f"{redacted(base)} has the tables {sorted(tables)}; name one: …?table=NAME, or ?query=SELECT…"
        )
    table = wanted.get("table") or tables[0]
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in table.split("."))
    quoted = quoted.replace('"', "`") if base.startswith(("mysql", "mariadb")) else quoted
    return f"SELECT * FROM {quoted}"
