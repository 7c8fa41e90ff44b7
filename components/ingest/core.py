"""Raw events to an immutable, content-addressed snapshot; what is new since the last ingest of a source costs, no more.

A source is cut into segments (`delimited`, `columnar`), their rows are cast (`casts`), checked (`checks`), given
pseudonyms and staged (`intake`, `staging`), and written as day partitions (`partitions`). A day is always made whole,
from every segment that has rows on it; days that nothing touched keep their partition.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.ingest.config import IngestConfig
from components.ingest.index import Index
from components.ingest.partitions import iso, partition_path
from millrace.installed import load
from millrace.lake.atomic import exclusive, replacing_folder, sha256_text
from millrace.lake.manifest import MANIFEST, Manifest, content_id, remote, remote_hashes
from millrace.lake.provenance import code_version
from millrace.lake.step import Step
from millrace.observe.progress import log
from millrace.reading.document import ColumnsDocument
from millrace.reading.redaction import redacting
from millrace.reading.sources import SourceFile, TableFile, canonical_uri, list_files
from millrace.uris import redacted

if TYPE_CHECKING:
    from components.ingest.refresh import Result


def ingest(source: str, lake: Path, config: IngestConfig) -> Manifest:
    """The snapshot of what `source` holds now.

    Raises NotFound when nothing is there, SchemaMismatch when a column is missing or cannot be ours, InvalidInput when
    a file cannot be read or no row is good, AlreadyRunning when another process is at the same source. Snapshots are
    then as they were before.
    """
    lake = lake.expanduser().absolute()
    files = list_files(source)
    uri = canonical_uri(source)
    work = lake / "ingest" / sha256_text(uri, config.identity)[:16]
    with exclusive(work / "lock", f"ingest of {redacted(source)}"):
        held = remote()
        if held is not None:
            held.fetch_state(work / "index.json")
        index = Index.read(work / "index.json")
        done = _finished(index, files, lake)
        if done is not None:
            log("ingest found its snapshot", snapshot=done.id, rows=done.facts["rows"])
            return done
        from components.ingest.refresh import Refresh  # pandera and pandas: 2 s that a finished source does not pay

        with _scratch(work / "scratch") as scratch:
            with redacting(), Refresh(lake, scratch, config, _usable(index, lake)) as refresh:
                result = refresh.run(files)
            manifest = _publish(lake, result, redacted(uri), config.workload, config.columns)
        result.index.snapshot = manifest.id
        result.index.write(work / "index.json")
        if held is not None:
            held.push_state(work / "index.json")
    quarantined = sum(manifest.facts["quarantined"].values())
    log("ingest made a snapshot", snapshot=manifest.id, rows=manifest.facts["rows"], quarantined=quarantined)
    if quarantined:
        _tell_rejected(manifest, lake, config)
    return manifest


def _tell_rejected(manifest: Manifest, lake: Path, config: IngestConfig) -> None:
    """A line for each reason, with a row that it was said of and what would take it."""
    from components.ingest.refused import examples

    found = examples(lake / "quarantine" / manifest.id, load(config.workload).schema, config.columns)
    for one in found:
        log(
            "ingest rejects", reason=one.reason, rows=manifest.facts["quarantined"].get(one.reason, 0), example=str(one)
        )


def source_version(source: str) -> str:
    """16 hex digits that change when a file of `source` appears, changes or goes; nothing is read."""
    return content_id({file.name: file.stamp for file in list_files(source)})


def _publish(lake: Path, result: Result, uri: str, workload: str, columns: ColumnsDocument) -> Manifest:
    """Give quarantine and manifest their names; the snapshot exists once the manifest does."""
    kept = {day: record for day, record in result.index.days.items() if record.rows and day not in result.stray}
    days = {iso(day): record for day, record in sorted(kept.items())}
    quarantined = dict(sorted(result.quarantined.items()))
    carried = {item.name: str(item.type) for item in result.carried}
    content = {
        "workload": workload,
        "schema_version": load(workload).schema.VERSION,
        "carried": carried,
        "days": {day: record.hash for day, record in days.items()},
        "quarantined": quarantined,
    }
    step = Step(kind="snapshot", id=content_id(content), workload=workload, lake=lake)
    if quarantined:
        with replacing_folder(lake / "quarantine" / step.id) as aside:
            shutil.copytree(result.quarantine, aside, dirs_exist_ok=True, copy_function=shutil.move)
    done = step.found()
    if done is not None:
        return done

    paths = {day: _relative(day, record.hash) for day, record in days.items()}
    facts = {
        "tables": {"events": paths},
        "schema_version": load(workload).schema.VERSION,
        "carried": carried,
        "rows": sum(record.rows for record in days.values()),
        "first_day": min(days),
        "last_day": max(days),
        "source": {"uri": uri, "hash": result.source_hash, "columns": columns.argument()},
        "quarantined": quarantined,
        "code_version": code_version(),
    }
    return step.record({paths[day]: record.hash for day, record in days.items()}, facts)


def _finished(index: Index, files: list[SourceFile | TableFile], lake: Path) -> Manifest | None:
    """The snapshot of the last ingest, when the source is as it was then and nobody removed a part of it."""
    if {file.name: file.stamp for file in files} != {path: record.stamp for path, record in index.files.items()}:
        return None
    done = Manifest.find(lake, "snapshot", index.snapshot) if index.snapshot else None
    # What was ingested elsewhere is whole in the lake's remote, but for its quarantine, which stays where it was made.
    here = done is not None and (Path(done.uri) / MANIFEST).is_file()
    return done if not here or _usable(index, lake).files else None


def _usable(index: Index, lake: Path) -> Index:
    """An empty index instead of one whose partitions or quarantine somebody removed."""
    partitions = [partition_path(lake, day, record.hash) for day, record in index.days.items() if record.rows]
    rejected = any(segment.invalid for record in index.files.values() for segment in record.segments)
    rejected = rejected or any(record.repeated for record in index.days.values())
    kept = [lake / "quarantine" / index.snapshot] if rejected else []
    missing = [path for path in partitions + kept if not path.exists()]
    return Index() if missing and len(remote_hashes(missing)) < len(missing) else index


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder in the lake for what is not finished; what a killed run left in it is removed first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _relative(day: str, digest: str) -> str:
    """The way from a snapshot's folder to a partition."""
    return f"../../events/day={day}/{digest[:16]}.parquet"
