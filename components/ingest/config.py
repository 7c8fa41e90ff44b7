"""How a source is read: what a person may say about it, checked before anything is opened."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from components.ingest.columns import check_column_map, rules_id
from millrace.errors import InvalidInput
from millrace.installed import load
from millrace.pseudonyms import fingerprint


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """How to read a source."""

    workload: str
    """Name of the workload whose events they are."""
    pseudonym_key: bytes = field(repr=False)
    """Key of the hash over ids that are pseudonymised; `Settings.pseudonym_secret()`."""
    column_map: Mapping[str, str] = field(default_factory=dict)
    """Raw name → our name, for columns that are neither ours nor the public ones."""
    timezone: str = "UTC"
    """IANA zone of timestamps without an offset."""
    delimiter: str = ""
    """Empty: found out from the header."""
    encoding: str = ""
    """Empty: found out from the first MiB."""
    memory_limit_gb: float = 3.0
    """Past it, staged rows spill to the lake's disk."""
    threads: int = 2

    def __post_init__(self) -> None:
        if not self.pseudonym_key:
            raise InvalidInput("the pseudonym key is empty; set MILLRACE_PSEUDONYM_KEY, or unset it to have one made")
        if self.delimiter and len(self.delimiter) != 1:
            raise InvalidInput(f"delimiter is {self.delimiter!r}; wanted one character")
        check_column_map(self.column_map, load(self.workload).schema)
        _check_timezone(self.timezone)
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError as error:
            raise InvalidInput(f"encoding is {self.encoding!r}; wanted a name Python knows, like latin-1") from error

    @property
    def identity(self) -> str:
        """Everything that changes what the same bytes mean; the key only as a keyed hash of nothing."""
        rules = rules_id(load(self.workload).schema)
        reading = [self.workload, rules, dict(self.column_map), self.timezone, self.delimiter, self.encoding]
        return json.dumps(reading, sort_keys=True) + fingerprint(self.pseudonym_key)


def _check_timezone(name: str) -> None:
    wanted = f"timezone is {name!r}; wanted an IANA name like Europe/Berlin"
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(wanted) from error
    if name == "UTC":
        return
    import duckdb  # reads the times, and knows fewer names than the system: no posix/Europe/Berlin

    with duckdb.connect() as engine:
        if not engine.execute("SELECT 1 FROM pg_timezone_names() WHERE name = ?", [name]).fetchone():
            raise InvalidInput(wanted)
