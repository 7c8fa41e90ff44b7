"""How a source is read: what a person may say about it, checked before anything is opened."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from millrace.errors import InvalidInput
from millrace.installed import load
from millrace.pseudonyms import fingerprint
from millrace.reading.columns import rules_id
from millrace.reading.document import EMPTY, ColumnsDocument
from millrace.reading.fit import require_fit


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """How to read a source."""

    workload: str
    """Name of the workload whose events they are."""
    pseudonym_key: bytes = field(repr=False)
    """Key of the hash over ids that are pseudonymised; `Settings.pseudonym_secret()`."""
    columns: ColumnsDocument = EMPTY
    """How the source is written, and where each field comes from."""
    memory_limit_gb: float = 3.0
    """Past it, staged rows spill to the lake's disk."""
    threads: int = 2

    def __post_init__(self) -> None:
        if not self.pseudonym_key:
            raise InvalidInput("the pseudonym key is empty; set MILLRACE_PSEUDONYM_KEY, or unset it to have one made")
        require_fit(self.columns.reading(), load(self.workload).schema)

    @property
    def identity(self) -> str:
        """Everything that changes what the same bytes mean; the key only as a keyed hash of nothing."""
        rules = rules_id(load(self.workload).schema)
        reading = [self.workload, rules, self.columns.reading().argument()]
        return json.dumps(reading, sort_keys=True) + fingerprint(self.pseudonym_key)
