"""Training rows as memory-mapped arrays, gathered a batch at a time without a Python loop over rows.

A customer's transactions lie side by side in the *pool*, so a history is a slice of it and is stored once, however many
rows look back on it. `components/assemble` writes the folder (docs/architecture.md has the table of files); the tensors
themselves are made by `fraud.features`, the code that serves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS, CustomerStates, history_tensor, states_before
from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound
from millrace.lake.manifest import Manifest
from millrace.workload import load

SPLITS: Final = ("train", "validation", "test")
"""The value of `split.npy` is the place in this tuple."""

UNKNOWN: Final = -1
"""Label of a test row whose label is not known yet."""


def is_known(label: NDArray[Any]) -> NDArray[np.bool_]:
    """Which labels are known, of classes or of a quantity."""
    known: NDArray[np.bool_] = ~np.isnan(label) if label.dtype.kind == "f" else label >= 0
    return known


POOL_ARRAYS: Final[dict[str, type[Any]]] = {
    "pool_event_us": np.int64,
    "pool_amount_cents": np.int64,
    "pool_terminal_risk": np.float32,
}
ROW_ARRAYS: Final[dict[str, type[Any]]] = {
    "row_position": np.int64,
    "row_start": np.int64,
    "features": np.float32,
    "label": np.int8,
    "split": np.int8,
}
ROWS: Final = "rows.parquet"
GATHER_ROWS: Final = 256
"""Rows gathered at a time: what lies between pool and tensor stays in the cache, which halves the cost of a batch."""


class TrainingSet:
    """R rows in time order; every array is read-only and mapped, so processes on a machine share its pages."""

    def __init__(self, manifest: Manifest) -> None:
        arrays = {name: _mapped(manifest, name, dtype) for name, dtype in (POOL_ARRAYS | ROW_ARRAYS).items()}
        _require_lengths(manifest, arrays)
        self.manifest = manifest
        self.workload = load(manifest.workload)
        self.pool_event_us: NDArray[np.int64] = arrays["pool_event_us"]
        self.pool_amount_cents: NDArray[np.int64] = arrays["pool_amount_cents"]
        self.pool_terminal_risk: NDArray[np.float32] = arrays["pool_terminal_risk"]
        self.row_position: NDArray[np.int64] = arrays["row_position"]
        self.row_start: NDArray[np.int64] = arrays["row_start"]
        self.features: NDArray[np.float32] = arrays["features"]
        self.label: NDArray[np.int8] = arrays["label"]
        self.split: NDArray[np.int8] = arrays["split"]

    @classmethod
    def open(cls, folder: Path | str) -> TrainingSet:
        """The training set in `folder`; raises NotFound, or ArtifactCorrupt for a file of another shape or type."""
        return cls(Manifest.read(folder, "training_set"))

    def __len__(self) -> int:
        return len(self.label)

    @property
    def history_length(self) -> int:
        """N: the longest history that can be asked for."""
        return int(self.manifest.facts["history_length"])

    def rows_of(self, split: str) -> NDArray[np.int64]:
        """Row numbers of "train", "validation" or "test", in time order."""
        if split not in SPLITS:
            raise InvalidInput(f"split is {split!r}; wanted one of {SPLITS}")
        return np.flatnonzero(self.split == SPLITS.index(split))

    def batch(self, rows: NDArray[np.int64], length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Model inputs of rows[B]: features[B, F] and history[B, length, C], float32, raw."""
        history = np.empty((len(rows), length, len(HISTORY_CHANNELS)), np.float32)
        for begin in range(0, len(rows), GATHER_ROWS):
            part = rows[begin : begin + GATHER_ROWS]
            history[begin : begin + GATHER_ROWS] = history_tensor(
                self.event_us(part), self.states(part, length), length
            )
        return self.features[rows], history

    def states(self, rows: NDArray[np.int64], length: int) -> CustomerStates:
        """The last `length` transactions before each of rows[B], as the online store would hold them."""
        if not 1 <= length <= self.history_length:
            raise InvalidInput(
                f"history of {length} transactions asked for; the set was built for {self.history_length}"
            )
        pool = self.pool_event_us, self.pool_amount_cents, self.pool_terminal_risk
        return states_before(self.row_position[rows], self.row_start[rows], length, *pool)

    def event_us(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Event times of rows[B], microseconds since 1970 UTC."""
        return self.pool_event_us[self.row_position[rows]]

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """`rows.parquet`: identities, labels and carried columns of the R rows, in the same order."""
        return pq.read_table(self.manifest.path(ROWS), columns=columns)


def _mapped(manifest: Manifest, name: str, dtype: type[Any]) -> NDArray[Any]:
    path = manifest.path(f"{name}.npy")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise NotFound(f"{path} is gone. Assemble the training set again.") from error
    except (ValueError, EOFError) as error:
        raise ArtifactCorrupt(f"{path} is not an array: {error}. Assemble the training set again.") from error
    if array.dtype != dtype:
        raise ArtifactCorrupt(f"{path} holds {array.dtype}; wanted {np.dtype(dtype)}. Assemble the training set again.")
    # A plain view: indexing a np.memmap pays for its subclass on every call.
    return array.view(np.ndarray)


def _require_lengths(manifest: Manifest, arrays: dict[str, NDArray[Any]]) -> None:
    for names in (POOL_ARRAYS, ROW_ARRAYS):
        lengths = {name: len(arrays[name]) for name in names}
        if len(set(lengths.values())) > 1:
            raise ArtifactCorrupt(f"training set {manifest.id} has arrays of different lengths: {lengths}")
    if arrays["features"].shape[1:] != (len(FEATURE_NAMES),):
        shape, wanted = list(arrays["features"].shape), len(FEATURE_NAMES)
        raise ArtifactCorrupt(
            f"training set {manifest.id}: features are {shape}; this code has {wanted}. Assemble again."
        )
