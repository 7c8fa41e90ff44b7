"""Training rows as memory-mapped arrays, gathered a batch at a time without a Python loop over rows.

`components/assemble` writes the folder (docs/architecture.md has the table of files). Where the model reads a history,
the events that rows look back on lie in a pool of their own (`millrace.features.histories`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound
from millrace.features.histories import Histories, Pool
from millrace.fields import View
from millrace.installed import Workload, load
from millrace.lake.manifest import Manifest
from millrace.workload import Task

SPLITS: Final = ("train", "validation", "test")
"""The value of `split.npy` is the place in this tuple."""
ROWS: Final = "rows.parquet"


def label_dtype(task: Task) -> type[Any]:
    """int8 for classes, float32 for a quantity."""
    return np.float32 if task is Task.REGRESSION else np.int8


def unknown(task: Task) -> float:
    """What stands for the label of a test row that is not known yet: -1 for classes, NaN for a quantity."""
    return float("nan") if task is Task.REGRESSION else -1


def is_known(label: NDArray[Any]) -> NDArray[np.bool_]:
    """Which labels are known, of classes or of a quantity."""
    known: NDArray[np.bool_] = ~np.isnan(label) if label.dtype.kind == "f" else label >= 0
    return known


class TrainingSet:
    """R rows in time order; every array is read-only and mapped, so processes on a machine share its pages."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.workload: Workload = load(manifest.workload, manifest.facts.get("feature_service", ""))
        self.event_us: NDArray[np.int64] = _mapped(manifest, "event_us", np.int64)
        """[R] microseconds since 1970 UTC."""
        self.features: NDArray[np.float32] = _mapped(manifest, "features", np.float32)
        """[R, F]"""
        self.label: NDArray[Any] = _mapped(manifest, "label", label_dtype(self.workload.task))
        """[R] int8 of classes or float32 of a quantity; `unknown` of the task where it is not known in time."""
        self.split: NDArray[np.int8] = _mapped(manifest, "split", np.int8)
        """[R] places in SPLITS."""
        self._channels = len(self.workload.features.HISTORY_CHANNELS)
        self._pool, self._position, self._start = self._open_pool()
        self._require_lengths()

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

    def batch(self, rows: NDArray[np.int64], length: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Model inputs of rows[B], raw: features[B, F], and history[B, length, C] where the model reads one."""
        if not self._channels:
            return self.features[rows], None
        self._require_length(length)
        at = self._position[rows], self._start[rows]
        history = self._pool.tensor(*at, length, self._channels, self.workload.batch.history)
        return self.features[rows], history

    def histories(self, rows: NDArray[np.int64], length: int) -> Histories:
        """The last `length` events before each of rows[B], as the online store would hold them."""
        self._require_length(length)
        return self._pool.before(self._position[rows], self._start[rows], length)

    def remembered(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """[B] what later histories say of rows[B] in a field of the recent view."""
        return self._pool.values[name][self._position[rows]]

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """`rows.parquet`: identities, labels and carried columns of the R rows, in the same order."""
        return pq.read_table(self.manifest.path(ROWS), columns=columns)

    def _open_pool(self) -> tuple[Pool, NDArray[np.int64], NDArray[np.int64]]:
        view = self.workload.recent
        if not self._channels or view is None:
            nothing = np.empty(0, np.int64)
            return Pool(nothing, {}), nothing, nothing
        values = {name: _mapped(self.manifest, f"pool_{name}", dtype) for name, dtype in remembered_by(view).items()}
        pool = Pool(_mapped(self.manifest, "pool_event_us", np.int64), values)
        return pool, _mapped(self.manifest, "row_position", np.int64), _mapped(self.manifest, "row_start", np.int64)

    def _require_length(self, length: int) -> None:
        if not 1 <= length <= self.history_length:
            raise InvalidInput(f"history of {length} events asked for; the set was built for {self.history_length}")

    def _require_lengths(self) -> None:
        rows: dict[str, NDArray[Any]] = {
            "event_us": self.event_us,
            "features": self.features,
            "label": self.label,
            "split": self.split,
        }
        if self._channels:
            rows |= {"row_position": self._position, "row_start": self._start}
        pool = {"event_us": self._pool.event_us, **self._pool.values}

        for arrays in (rows, pool):
            lengths = {name: len(array) for name, array in arrays.items()}
            if len(set(lengths.values())) > 1:
                raise ArtifactCorrupt(f"training set {self.manifest.id} has arrays of different lengths: {lengths}")

        wanted = len(self.workload.features.FEATURE_NAMES)
        if self.features.shape[1:] != (wanted,):
            raise ArtifactCorrupt(
                f"training set {self.manifest.id}: features are {list(self.features.shape)}; "
                f"this code has {wanted}. Assemble again."
            )


def remembered_by(view: View) -> dict[str, type[Any]]:
    """Fields of a recent view after the ids and times of its events → the type of their values."""
    fields = list(view.fields.items())[2:]
    return {name: kind.value_type.to_pandas_dtype() for name, kind in fields}


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
