"""What survives a restart: a journal of accepted rows, and a state file that makes the journal before it unnecessary.

A row is in the journal before its event is acknowledged, so a killed process loses none (a lost
machine: what its disk had not synced). The state is written aside and renamed, and names the first journal that is
not in it.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from millrace.errors import Unavailable
from millrace.lake.atomic import replacing_file
from millrace.observe.progress import log
from serving.drift_detector.events import Scored

State = tuple[dict[str, Any], dict[str, NDArray[Any]]]


class Store:
    """The state folder of one detector; one process at a time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._number = 0
        self._stream: io.BufferedWriter | None = None

    @property
    def state(self) -> Path:
        return self._folder / "state.npz"

    def read(self) -> State | None:
        """The state last saved; one that cannot be read is put aside and said, and begins anew."""
        try:
            found = read_state(self.state)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, orjson.JSONDecodeError) as error:
            self.state.replace(self.state.with_suffix(".unreadable"))
            log("drift_state_unreadable", file=str(self.state), error=str(error))
            return None
        if found is not None:
            self._number = int(found[0]["journal"])
        return found

    def replay(self) -> Iterator[Scored]:
        """Rows accepted since that state; a last line that was cut off was never acknowledged."""
        for path in self._journals():
            for line in path.read_bytes().splitlines():
                try:
                    yield Scored.of_line(line)
                except (orjson.JSONDecodeError, ValueError, TypeError):
                    log("drift_journal_line_cut", file=path.name)

    def begin(self, waiting: Iterable[Scored] = ()) -> int:
        """Open the next journal, with the rows that the coming state will not hold; its number."""
        last = max((_number(path) for path in self._journals()), default=self._number)
        self._number = last + 1
        if self._stream is not None:
            self._stream.close()
        self._stream = (self._folder / f"journal-{self._number}.jsonl").open("ab")
        self.append(waiting)
        return self._number

    def append(self, rows: Iterable[Scored]) -> None:
        """Make rows durable against the end of this process; raises Unavailable when the disk refuses."""
        assert self._stream is not None
        text = b"".join(row.line() + b"\n" for row in rows)
        if not text:
            return
        place = self._stream.tell()
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            self._forget(place)
            raise Unavailable(f"the journal in {self._folder} cannot be written: {error}. Free some space.") from error

    def save(self, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the state; then journals before the one it names go."""
        with replacing_file(self.state) as aside, aside.open("wb") as stream:
            np.savez(stream, document=np.frombuffer(orjson.dumps(document), np.uint8), **dict(arrays))  # type: ignore[arg-type]
        for path in self._journals():
            if _number(path) < int(document["journal"]):
                path.unlink()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _journals(self) -> list[Path]:
        return sorted(self._folder.glob("journal-*.jsonl"), key=_number)

    def _forget(self, place: int) -> None:
        """Half a write must not be in front of the next one: a new descriptor, cut back to what was whole."""
        assert self._stream is not None
        name = self._stream.name
        with contextlib.suppress(OSError):
            self._stream.close()
        os.truncate(name, place)
        self._stream = Path(str(name)).open("ab")  # noqa: SIM115 - kept open


def read_state(path: Path) -> State | None:
    """The state in a file, for the service and the report; None where there is none. Raises ValueError and OSError."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    return orjson.loads(arrays.pop("document").tobytes()), arrays


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
