"""What counters have grown by since a mark, as Prometheus' `increase` would say it; kept in a file.

Counters only grow until a server starts again and begins at 0. A controller that starts again goes on from the file.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from millrace.lake.atomic import write_text
from serving.rollout.samples import Samples


class Growth:
    """Of the samples that `since` is given from look to look."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def since(self, mark: str, now_is: Samples) -> Samples:
        """What each counter has grown by since it was first given with this mark.

        One that is smaller than before began again at 0.
        """
        known = self._read()
        if known.get("mark") != mark:
            known = {"mark": mark, "last": now_is, "grown": {}}
        last: Samples = known["last"]
        grown: Samples = known["grown"]
        for key, value in now_is.items():
            before = last.get(key, 0.0)
            grown[key] = grown.get(key, 0.0) + (value - before if value >= before else value)
        write_text(self._path, json.dumps({"mark": mark, "last": last | now_is, "grown": grown}) + "\n")
        return grown

    def _read(self) -> dict[str, Any]:
        with suppress(FileNotFoundError, json.JSONDecodeError):
            document: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            return document
        return {}
