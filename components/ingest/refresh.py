"""One pass over a source: parse what the index does not know, remake the days it touches, keep the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.ingest.edges import STRAY, edge_days
from components.ingest.index import DayRecord, FileRecord, Index
from components.ingest.intake import Intake, Origin
from components.ingest.partitions import partition_path, write_partition
from components.ingest.quarantine import Quarantine, invalid_prefix, repeated_prefix, segment_key
from components.ingest.refused import examples
from components.ingest.staging import Staging
from millrace.errors import InvalidInput, SchemaMismatch
from millrace.installed import load
from millrace.lake.manifest import content_id, fetch
from millrace.observe.progress import track
from millrace.reading.columns import decode_schema, encode_schema, idle_columns, unify
from millrace.reading.raw import Reader, Segment
from millrace.reading.readers import open_reader
from millrace.reading.sources import SourceFile, TableFile

if TYPE_CHECKING:
    from components.ingest.config import IngestConfig


@dataclass(frozen=True, slots=True)
class Result:
    """What a pass found; `index.snapshot` is still that of the pass before."""

    index: Index
    stray: set[int]
    """Days of the index that are not of the snapshot."""
    carried: pa.Schema
    quarantined: Counter[str]
    quarantine: Path
    """Folder with the rejected rows, to be given its name."""
    source_hash: str


class Refresh:
    """The state of one pass; holds a DuckDB connection while it is entered."""

    def __init__(self, lake: Path, scratch: Path, config: IngestConfig, index: Index) -> None:
        self.lake = lake
        self.scratch = scratch
        self.config = config
        self.schema = load(config.workload).schema
        self.before = index
        self.files: dict[str, FileRecord] = {}
        self._sources: dict[str, SourceFile | TableFile] = {}
        self._readers: dict[str, Reader] = {}
        self._numbers: dict[tuple[str, int], Origin] = {}
        self._staging: Staging | None = None

    def __enter__(self) -> Refresh:
        return self

    def __exit__(self, *_: object) -> None:
        if self._staging is not None:
            self._staging.close()

    def run(self, files: list[SourceFile | TableFile]) -> Result:
        """Raises InvalidInput when no row is left."""
        self._sources = {file.name: file for file in files}
        carried = self._carried()
        self._staging = staging = Staging(
            self.scratch, self.schema, carried, self.config.memory_limit_gb, self.config.threads
        )
        quarantine = Quarantine(self.scratch / "quarantine", staging.db)
        intake = Intake(staging, quarantine, self.schema, carried, self.config.pseudonym_key)

        for file in track(files, "ingest reads", total=len(files)):
            self.files[file.name] = self._scan(file, intake)
        intake.flush()

        if not any(segment.rows for segment in self._segments()):
            raise InvalidInput(
                f"{files[0].name} and the other {len(files) - 1} files hold no rows; wanted at least one"
            )

        days, conflicts = self._remake(self._stage_touched(intake, staging), staging, quarantine)
        stray = self._set_strays_aside(days, quarantine)
        index = Index(snapshot=self.before.snapshot, files=self.files, days=days, conflicts=conflicts)
        rejected = self._quarantined(days) + Counter({STRAY: sum(days[day].rows for day in stray)})
        return Result(index, stray, carried, rejected, quarantine.folder, self._source_hash())

    def _carried(self) -> pa.Schema:
        """Carried columns of all files together; when they differ from last time, every day is made again."""
        changed = [path for path in self._sources if self._old(path) is None]
        kept = [decode_schema(record.carried) for path in self._sources if (record := self._old(path))]
        if not kept:
            self._check_document()

        known = self.schema.CARRIED_TYPES
        now = unify([*kept, *(self._reader(path).shape.carried for path in changed)], known)
        was = unify((decode_schema(record.carried) for record in self.before.files.values()), known)

        if self.before.files and not now.equals(was):
            self.before = Index()
            return self._carried()
        return now

    def _check_document(self) -> None:
        """A column that the document names and no file has is a typing error."""
        found = {name for path in self._sources for name in self._reader(path).shape.raw.names}
        idle = idle_columns(self.config.columns, found)
        if idle:
            raise SchemaMismatch(f"columns names {idle}, which no file has; found {sorted(found)}")

    def _old(self, path: str) -> FileRecord | None:
        """The record of a file that is as it was."""
        record = self.before.files.get(path)
        return record if record is not None and record.stamp == self._sources[path].stamp else None

    def _reader(self, path: str) -> Reader:
        if path not in self._readers:
            self._readers[path] = open_reader(self._sources[path], self.schema, self.config.columns)
        return self._readers[path]

    def _scan(self, file: SourceFile | TableFile, intake: Intake) -> FileRecord:
        """The file's segments; the rows of new ones go to `intake`."""
        old = self._old(file.name)
        if old is not None:
            return old

        reader = self._reader(file.name)
        known = self.before.files[file.name].segments if file.name in self.before.files else []
        record = FileRecord(stamp=file.stamp, carried=encode_schema(reader.shape.carried), segments=[])

        for stretch in reader.scan(known):
            record.segments.append(stretch.segment)
            if not stretch.known:
                origin = self._origin(file.name, stretch.segment, record)
                for raw in stretch.read():
                    intake.take(origin, raw, None)
        return record

    def _origin(self, path: str, segment: Segment, record: FileRecord) -> Origin:
        place = (path, segment.start)
        if place not in self._numbers:
            first_row = sum(one.rows for one in record.segments if one.start < segment.start)
            number = len(self._numbers)
            self._numbers[place] = Origin(number, path, segment, first_row, self._reader(path).shape)
        return self._numbers[place]

    def _stage_touched(self, intake: Intake, staging: Staging) -> set[int]:
        """Stage, of every day that has to be made again, the rows that known segments have on it; returns the days.

        An id that is new but also lies in a finished day, or clashed there before, draws that day in: repeat until
        nothing is added.
        """
        fresh = set(self._numbers)
        gone = [one for one in _all_segments(self.before.files) if not self._has(*one)]
        touched = {day for path, one in self._placed() if (path, one.start) in fresh for day in one.days}
        touched |= {day for _, one in gone for day in one.days}
        staged: dict[tuple[str, int], set[int]] = {}

        while True:
            for path, record in self.files.items():
                wanted = [one for one in record.segments if (path, one.start) not in fresh]
                self._stage_days(path, wanted, touched, staged, intake)
            intake.flush()
            more = self._drawn_in(touched, staging) - touched
            if not more:
                return touched
            touched |= more

    def _stage_days(
        self,
        path: str,
        segments: list[Segment],
        touched: set[int],
        staged: dict[tuple[str, int], set[int]],
        intake: Intake,
    ) -> None:
        missing = {one.start: (touched & set(one.days)) - staged.get((path, one.start), set()) for one in segments}
        wanted = [one for one in segments if missing[one.start]]
        if not wanted:
            return

        for segment, raw in self._reader(path).reread(wanted):
            origin = self._origin(path, segment, self.files[path])
            intake.take(origin, raw, frozenset(missing[segment.start]))
        for segment in wanted:
            staged.setdefault((path, segment.start), set()).update(missing[segment.start])

    def _drawn_in(self, touched: set[int], staging: Staging) -> set[int]:
        """Days already made that share an id with a touched one."""
        days_of: dict[int, set[int]] = defaultdict(set)
        for row, day in self.before.conflicts:
            days_of[row].add(day)
        more = {day for days in days_of.values() if days & touched for day in days}

        span = staging.id_range()
        if span is None:
            return more

        clean = {day: record for day, record in self.before.days.items() if day not in touched and record.rows}
        overlapping = {
            day: partition_path(self.lake, day, record.hash)
            for day, record in clean.items()
            if record.first_id <= span[1] and record.last_id >= span[0]
        }
        fetch({path: clean[day].hash for day, path in overlapping.items()})
        elsewhere = [(row, day) for row, day in self.before.conflicts if day not in touched]
        return more | staging.days_touched_elsewhere(overlapping, elsewhere)

    def _remake(
        self, touched: set[int], staging: Staging, quarantine: Quarantine
    ) -> tuple[dict[int, DayRecord], list[tuple[int, int]]]:
        """Partitions of all days, and every (id, day) that clashes."""
        losers = staging.settle_repeated()
        self._set_losers_aside(losers, quarantine)

        days = {day: record for day, record in self.before.days.items() if day not in touched}
        for day, rows in track(staging.days(), "ingest writes"):
            days[day] = write_partition(self.lake, self.scratch, day, rows, self.schema.EVENT_ID)

        conflicts = [(row, day) for row, day in self.before.conflicts if day not in touched]
        lost = losers.select(["day", "reason", "event_id"]).to_pydict().values()
        for day, reason, row in zip(*lost, strict=True):
            record = days.setdefault(day, DayRecord(hash="", rows=0, first_id=0, last_id=0))
            record.repeated[reason] = record.repeated.get(reason, 0) + 1
            if reason == "conflicting_id":
                conflicts.append((row, day))

        self._take_over_quarantine(touched, quarantine)
        return days, conflicts

    def _set_losers_aside(self, losers: pa.Table, quarantine: Quarantine) -> None:
        """Fetch the raw rows of losers from their segments once more, and write them by day."""
        by_number = {origin.number: origin for origin in self._numbers.values()}
        numbers, rows, days = (losers[name].to_numpy() for name in ("segment", "row", "day"))
        reasons = np.asarray(losers["reason"].to_pylist(), dtype=object)

        for number in np.unique(numbers).tolist():
            origin = by_number[number]
            for _, raw in self._reader(origin.path).reread([origin.segment]):
                places = origin.first_row + np.asarray(raw.rows, np.int64)
                mine = np.flatnonzero((numbers == number) & np.isin(rows, places))
                at = np.searchsorted(places, rows[mine])
                for day in np.unique(days[mine]).tolist():
                    chosen = days[mine] == day
                    name = f"{repeated_prefix(day)}{origin.key}-{rows[mine][chosen][0]}"
                    lost = raw.table.take(pa.array(at[chosen]))
                    quarantine.add(name, lost, reasons[mine][chosen], origin.path, rows[mine][chosen])

    def _set_strays_aside(self, days: dict[int, DayRecord], quarantine: Quarantine) -> set[int]:
        """Write the events of days that are none as they would have been kept; returns the days."""
        stray = edge_days({day: record.rows for day, record in days.items()}, self.schema.EDGE_SHARE)
        paths = {day: partition_path(self.lake, day, days[day].hash) for day in sorted(stray)}
        fetch({path: days[day].hash for day, path in paths.items()})
        for day, path in paths.items():
            rows = pq.read_table(path, partitioning=None)
            quarantine.add(
                f"stray-{day}", rows, [STRAY] * len(rows), str(path.relative_to(self.lake)), range(len(rows))
            )
        return stray

    def _take_over_quarantine(self, touched: set[int], quarantine: Quarantine) -> None:
        """Takes from the snapshot before: rejected rows of known segments, and of days that were not touched."""
        if not self.before.snapshot:
            return
        known = {(path, one.start, one.hash) for path, one in _all_segments(self.before.files)}
        segments = [one for one in self._placed() if (one[0], one[1].start, one[1].hash) in known and one[1].invalid]
        keys = [segment_key(path, one.start, one.hash) for path, one in segments]
        clean = [day for day, record in self.before.days.items() if day not in touched and record.repeated]
        prefixes = [*map(invalid_prefix, keys), *map(repeated_prefix, clean)]
        quarantine.take_over(self.lake / "quarantine" / self.before.snapshot, prefixes)

    def _quarantined(self, days: dict[int, DayRecord]) -> Counter[str]:
        total: Counter[str] = Counter()
        for segment in self._segments():
            total.update(segment.invalid)
        for record in days.values():
            total.update(record.repeated)
        if not any(record.rows for record in days.values()):
            counts = ", ".join(f"{reason} {rows:,}" for reason, rows in total.most_common())
            shown = examples(self.scratch / "quarantine", self.schema, self.config.columns)
            told = "".join(f"\n  {one.reason}: {one}" for one in shown)
            raise InvalidInput(
                f"every row was rejected: {counts}. Nothing was written; fix the export or the options.{told}"
            )
        return total

    def _source_hash(self) -> str:
        return content_id({path: [one.hash for one in record.segments] for path, record in self.files.items()})

    def _has(self, path: str, segment: Segment) -> bool:
        segments = self.files[path].segments if path in self.files else []
        return any(one.start == segment.start and one.hash == segment.hash for one in segments)

    def _placed(self) -> Iterator[tuple[str, Segment]]:
        return _all_segments(self.files)

    def _segments(self) -> Iterator[Segment]:
        return (segment for _, segment in _all_segments(self.files))


def _all_segments(files: dict[str, FileRecord]) -> Iterator[tuple[str, Segment]]:
    return ((path, segment) for path, record in files.items() for segment in record.segments)
