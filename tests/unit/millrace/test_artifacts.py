"""Manifests: identity, hashes, and clear words when something is not what it should be."""

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound
from millrace.lake.manifest import Manifest, content_id, hash_files, list_manifests


def an_artifact(folder: Path) -> Manifest:
    folder.mkdir(parents=True)
    (folder / "rows.parquet").write_bytes(b"rows")
    return Manifest(kind="snapshot", id="abc", workload="fraud", uri=str(folder), files=hash_files(folder)).write()


def test_a_manifest_reads_back_as_written(tmp_path: Path) -> None:
    manifest = an_artifact(tmp_path / "a")

    assert Manifest.read(tmp_path / "a") == manifest
    assert Manifest.read(tmp_path / "a" / "manifest.json", "snapshot") == manifest


def test_a_manifest_of_a_release_that_named_no_workload_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"kind": "snapshot", "id": "abc", "uri": "."}')

    with pytest.raises(ArtifactCorrupt, match=r"names no workload: an older release made it\. Set MILLRACE_HOME"):
        Manifest.read(path)


def test_an_artifact_that_was_moved_with_its_home_is_found_where_it_lies(tmp_path: Path) -> None:
    an_artifact(tmp_path / "old" / "abc")
    (tmp_path / "old").rename(tmp_path / "new")

    moved = Manifest.read(tmp_path / "new" / "abc")

    assert moved.fetch() == tmp_path / "new" / "abc"
    moved.verify()


def test_a_copy_of_a_manifest_that_travels_keeps_pointing_at_the_artifact(tmp_path: Path) -> None:
    manifest = an_artifact(tmp_path / "lake" / "abc")
    manifest.write(tmp_path / "run" / "snapshot")
    manifest.write(tmp_path / "run" / "step" / "manifest.json")

    assert Manifest.read(tmp_path / "run" / "snapshot") == manifest
    assert Manifest.read(tmp_path / "run" / "step") == manifest


def test_without_a_remote_nothing_of_it_is_imported(tmp_path: Path) -> None:
    an_artifact(tmp_path / "abc")
    code = (
        "import sys\n"
        "import components.assemble.core, components.build_features.core\n"
        "from millrace.lake.manifest import Manifest, list_manifests\n"
        "made = Manifest.read(sys.argv[1]).hand_over(__import__('pathlib').Path(sys.argv[1]) / 'out')\n"
        "made.verify(), made.path('rows.parquet'), list(list_manifests(made.fetch().parent, 'snapshot'))\n"
        "print(*({'millrace.lake.remote', 's3fs', 'botocore'} & set(sys.modules)))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MILLRACE_LAKE_REMOTE"}

    arguments = [sys.executable, "-c", code, str(tmp_path / "abc")]
    run = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)

    assert run.stdout.split() == []


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    manifest = an_artifact(tmp_path / "a")
    manifest.verify()

    manifest.path("rows.parquet").write_bytes(b"rowz")

    with pytest.raises(ArtifactCorrupt, match=r"rows\.parquet: sha256 is"):
        manifest.verify()


def test_only_the_files_asked_for_are_hashed(tmp_path: Path) -> None:
    manifest = an_artifact(tmp_path / "a")
    rows = manifest.path("rows.parquet")
    rows.write_bytes(b"rowz")

    manifest.verify({tmp_path / "a" / "other.parquet"})

    with pytest.raises(ArtifactCorrupt, match=r"rows\.parquet"):
        manifest.verify({rows})


def test_a_missing_file_is_noticed(tmp_path: Path) -> None:
    manifest = an_artifact(tmp_path / "a")

    manifest.path("rows.parquet").unlink()

    with pytest.raises(ArtifactCorrupt, match="is missing"):
        manifest.verify()


def test_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    an_artifact(tmp_path / "a")

    with pytest.raises(InvalidInput, match="is a snapshot; wanted a model"):
        Manifest.read(tmp_path / "a", "model")


@pytest.mark.parametrize("text", ["", "{", '{"kind": "snapshot"}', '{"nonsense": 1}'])
def test_a_file_that_is_no_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(ArtifactCorrupt, match="is not a manifest"):
        Manifest.read(tmp_path)


def test_an_absent_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="Run the step that makes it first"):
        Manifest.read(tmp_path)


def test_a_table_gives_the_files_of_the_days_asked_for(tmp_path: Path) -> None:
    tables = {"events": {f"2018-04-0{day}": f"day-{day}.parquet" for day in (1, 2, 3)}}
    manifest = Manifest(kind="snapshot", id="abc", workload="fraud", uri=str(tmp_path), facts={"tables": tables})

    files = manifest.table("events", date(2018, 4, 2), date(2018, 4, 3))

    assert [path.name for path in files] == ["day-2.parquet", "day-3.parquet"]
    assert len(manifest.table("events")) == 3
    with pytest.raises(NotFound, match="no table 'states'"):
        manifest.table("states")


def test_an_id_depends_on_content_and_not_on_order() -> None:
    assert content_id({"a": 1, "b": 2}) == content_id({"b": 2, "a": 1})
    assert content_id({"a": 1}) != content_id({"a": 2})


def test_manifests_are_listed_by_kind_oldest_first(tmp_path: Path) -> None:
    an_artifact(tmp_path / "a")
    Manifest(kind="model", id="m", workload="fraud", uri=str(tmp_path / "b")).write()

    assert [manifest.id for manifest in list_manifests(tmp_path, "snapshot")] == ["abc"]
