"""What survives a restart of a detector: its state, in one file that is written aside and renamed.

The stream keeps every event until the state that holds it is saved.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from millrace.lake.atomic import replacing_file
from millrace.observe.progress import log

State = tuple[dict[str, Any], dict[str, NDArray[Any]]]


class Store:
    """The state folder of one detector; one process at a time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    @property
    def state(self) -> Path:
        return self._folder / "state.npz"

    def read(self) -> State | None:
        """The state last saved; one that cannot be read is put aside and said, and begins anew."""
        try:
            return read_state(self.state)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, orjson.JSONDecodeError) as error:
            self.state.replace(self.state.with_suffix(".unreadable"))
            log("drift_state_unreadable", file=str(self.state), error=str(error))
            return None

    def save(self, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the state; durable when it returns."""
        with replacing_file(self.state) as aside, aside.open("wb") as stream:
            np.savez(stream, document=np.frombuffer(orjson.dumps(document), np.uint8), **dict(arrays))  # type: ignore[arg-type]


def read_state(path: Path) -> State | None:
    """The state in a file, for the service and the report; None where there is none. Raises ValueError and OSError."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    return orjson.loads(arrays.pop("document").tobytes()), arrays
