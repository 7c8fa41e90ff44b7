"""The lake on S3, against a real server: steps that share nothing but the bucket, and what goes wrong on the way."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kfp import dsl
from s3_server import SECRET
from s3fs import S3FileSystem

from components.assemble.component import assemble
from components.build_features.component import build_features
from components.gate.component import gate_data
from components.ingest.component import ingest
from components.validate.component import validate
from components.validate.core import find_previous
from millrace.errors import ArtifactCorrupt, ConfigError, MillraceError, NotFound, Unavailable
from millrace.lake.manifest import Manifest, hash_files, list_manifests


class Cluster:
    """Steps as Kubeflow runs them: only manifests travel. A step has an empty home, gone with it, unless told one."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._environment = monkeypatch
        self._steps = 0
        self.lake = folder
        self.files: list[str] = []
        """What the last step left in its lake, locks apart."""

    def enter(self, home: Path) -> Path:
        self._environment.setenv("MILLRACE_HOME", str(home))
        self.lake = home / "lake"
        return self.lake

    def run(self, face: Any, output: str = "", *, home: Path | None = None, **arguments: Any) -> Any:
        """Run a component's face; the artifact of its `output`."""
        self._steps += 1
        place = self.folder / f"step-{self._steps}"
        place.mkdir(parents=True)
        self.enter(home or place / "home")
        made = dsl.Dataset(name=output, uri=str(place / "out"))
        pages = {"report": dsl.HTML(uri=str(place / "page"))} if face is validate else {}
        result = face.python_func(**arguments, **({output: made} if output else {}), **pages)
        paths = (path for path in self.lake.rglob("*") if path.is_file() and not path.name.endswith("lock"))
        self.files = sorted(str(path.relative_to(self.lake)) for path in paths)
        if home is None:
            shutil.rmtree(place / "home", ignore_errors=True)
        return made if output else result


@pytest.fixture
def remote(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MILLRACE_LAKE_REMOTE", f"s3://{bucket}/lake")
    monkeypatch.setenv("MILLRACE_PSEUDONYM_KEY", "a key of tests")
    return bucket


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path / "cluster", monkeypatch)


@pytest.fixture
def an_artifact(tmp_path: Path) -> Callable[..., Manifest]:
    """`an_artifact(home)` → a model of a few small files in the lake of `home`."""

    def make(home: Path, content: bytes = b"weights", count: int = 3, identity: str = "0123456789abcdef") -> Manifest:
        folder = home / "lake" / "models" / identity
        (folder / "part").mkdir(parents=True)
        for number in range(count):
            (folder / "part" / f"{number}.bin").write_bytes(content + b"%d" % number)
        return Manifest(kind="model", id=identity, workload="fraud", uri=str(folder), files=hash_files(folder)).write()

    return make


def objects(bucket: str) -> dict[str, tuple[str, Any]]:
    """Key → hash of what it holds and when it was written."""
    client = boto3.client("s3")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = {item["Key"]: (item["ETag"], item["LastModified"]) for page in pages for item in page.get("Contents", ())}
    client.close()
    return found


def overwrite(bucket: str, key: str, content: bytes) -> None:
    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key=key, Body=content)
    client.close()


def write_days(folder: Path, days: list[pa.Table]) -> None:
    folder.mkdir(exist_ok=True)
    for day in days:
        path = folder / f"{day['event_timestamp'][0].as_py().date()}.parquet"
        if not path.exists():
            pq.write_table(day, path)


def features_from(cluster: Cluster, raw: Path, home: Path | None = None) -> dsl.Dataset:
    snapshot = cluster.run(ingest, "snapshot", source=str(raw), home=home)
    return cluster.run(build_features, "feature_set", snapshot=snapshot, home=home)


def hashes(manifest: dsl.Dataset) -> dict[str, str]:
    return Manifest.read(manifest.uri).files


def test_steps_that_share_only_the_bucket_make_what_one_home_makes_and_a_rerun_makes_nothing(
    remote: str, cluster: Cluster, simulated_days: list[pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_days(tmp_path / "raw", simulated_days[:32])

    def pipeline(home: Path | None = None) -> tuple[list[dsl.Dataset], list[list[str]]]:
        lakes = []
        snapshot = cluster.run(ingest, "snapshot", source=str(tmp_path / "raw"), home=home)
        lakes.append(cluster.files)
        validation = cluster.run(validate, "validation", snapshot=snapshot, profile="simulated", home=home)
        lakes.append(cluster.files)
        cluster.run(gate_data, validation=validation, run_id="r", home=home)
        features = cluster.run(build_features, "feature_set", snapshot=snapshot, home=home)
        lakes.append(cluster.files)
        rows = cluster.run(assemble, "training_set", feature_set=features, train_days=8, validation_days=2, home=home)
        lakes.append(cluster.files)
        return [snapshot, validation, features, rows], lakes

    apart, lakes = pipeline()
    written = objects(remote)
    again, idle = pipeline()
    assert objects(remote) == {**written, **{key: objects(remote)[key] for key in written if "/ingest/" in key}}
    monkeypatch.delenv("MILLRACE_LAKE_REMOTE")
    together, _ = pipeline(tmp_path / "one home")

    assert [hashes(made) for made in (apart[0], *apart[2:])] == [hashes(made) for made in (together[0], *together[2:])]
    assert [made.metadata["id"] for made in apart] == [made.metadata["id"] for made in together]
    assert [made.metadata["id"] for made in again] == [made.metadata["id"] for made in apart]
    # Assembling needs the days up to its test week, and of those the transactions only.
    assert {name.split("/")[0] for name in lakes[3]} == {"features", "training_sets"}
    assert not any("terminal_state" in name for name in lakes[3])
    # A finished step needs no data, but for the page it shows and the schemas that the id of a feature set depends on.
    assert [{name.split("/")[0] for name in names} for names in idle] == [
        {"ingest"},
        {"validations"},
        {"events"},
        set(),
    ]


def test_a_new_day_is_added_by_steps_that_begin_with_nothing(
    remote: str, cluster: Cluster, simulated_days: list[pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_days(tmp_path / "raw", simulated_days[:20])
    features_from(cluster, tmp_path / "raw")
    write_days(tmp_path / "raw", simulated_days[:21])

    features = features_from(cluster, tmp_path / "raw")

    made = [name for name in cluster.files if name.startswith("features/")]
    assert len(made) <= 3  # the day, its terminals' states and those of the day after
    monkeypatch.delenv("MILLRACE_LAKE_REMOTE")
    whole = features_from(cluster, tmp_path / "raw", tmp_path / "one home")
    assert hashes(features) == hashes(whole)


def test_the_previous_snapshot_that_passed_is_found_where_only_the_bucket_has_it(
    remote: str, cluster: Cluster, simulated_days: list[pa.Table], tmp_path: Path
) -> None:
    write_days(tmp_path / "raw", simulated_days[:10])
    first = cluster.run(ingest, "snapshot", source=str(tmp_path / "raw"))
    folder = cluster.enter(tmp_path / "judge") / "validations" / "a-judgement"
    passed = {"passed": True}
    Manifest(
        kind="validation",
        id=folder.name,
        workload="fraud",
        uri=str(folder),
        parents={"snapshot": first.metadata["id"]},
        facts=passed,
    ).hand_over(tmp_path / "out")
    write_days(tmp_path / "raw", simulated_days[:11])
    second = cluster.run(ingest, "snapshot", source=str(tmp_path / "raw"))

    previous = find_previous(Manifest.read(second.uri), cluster.enter(tmp_path / "empty"))

    assert previous is not None
    assert previous.id == first.metadata["id"]
    assert all(path.is_file() for path in previous.table("events"))


def test_a_push_that_was_killed_shows_nothing_and_is_finished_by_the_next(
    remote: str, cluster: Cluster, an_artifact: Callable[..., Manifest], tmp_path: Path
) -> None:
    for attempt in range(5):  # a push may be done before the signal comes
        home, identity = tmp_path / f"home-{attempt}", f"{attempt:016x}"
        cluster.enter(home)
        manifest = an_artifact(home, count=100, identity=identity)
        act = f"Manifest.read({str(manifest.uri)!r}).hand_over({str(home / 'out')!r})"
        code = f"from millrace.lake.manifest import Manifest; {act}"
        pushing = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while pushing.poll() is None and not any(identity in key for key in objects(remote)):
            assert time.monotonic() < deadline
        pushing.kill()
        if pushing.wait() != 0:
            break

    half = [key for key in objects(remote) if identity in key]
    assert 0 < len(half) < 101
    cluster.enter(tmp_path / "another")
    assert Manifest.find(cluster.lake, "model", identity) is None
    assert identity not in [found.id for found in list_manifests(cluster.lake / "models", "model")]
    cluster.enter(home)
    before = objects(remote)
    manifest.hand_over(home / "out")

    cluster.enter(tmp_path / "another")
    Manifest.read(home / "out", "model").verify()
    after = objects(remote)
    assert {key: after[key] for key in half} == {key: before[key] for key in half}


def test_an_object_that_is_not_what_its_name_says_never_enters_a_lake(
    remote: str, cluster: Cluster, an_artifact: Callable[..., Manifest], tmp_path: Path
) -> None:
    cluster.enter(tmp_path / "maker")
    an_artifact(tmp_path / "maker").hand_over(tmp_path / "out")
    key = next(key for key in objects(remote) if "/1." in key)
    overwrite(remote, key, b"weightz1")

    cluster.enter(tmp_path / "reader")
    with pytest.raises(ArtifactCorrupt, match=f"{key}: sha256 is .* wanted .* Remove that object"):
        _ = Manifest.read(tmp_path / "out", "model").fetch()

    assert [path for path in cluster.lake.rglob("*") if path.is_file()] == []


def test_an_object_that_is_gone_is_named_and_comes_back_from_where_its_file_is(
    remote: str, cluster: Cluster, an_artifact: Callable[..., Manifest], tmp_path: Path
) -> None:
    cluster.enter(tmp_path / "maker")
    manifest = an_artifact(tmp_path / "maker").hand_over(tmp_path / "out")
    key = next(key for key in objects(remote) if "/1." in key)
    S3FileSystem().rm(f"{remote}/{key}")

    cluster.enter(tmp_path / "reader")
    with pytest.raises(NotFound, match=f"cannot read s3://{remote}/{key}: .*run the step that made it"):
        _ = Manifest.read(tmp_path / "out", "model").fetch()
    cluster.enter(tmp_path / "maker")
    manifest.hand_over(tmp_path / "out")

    cluster.enter(tmp_path / "reader")
    Manifest.read(tmp_path / "out", "model").verify()


def test_a_file_that_was_damaged_here_is_not_pushed(
    remote: str, cluster: Cluster, an_artifact: Callable[..., Manifest], tmp_path: Path
) -> None:
    cluster.enter(tmp_path / "maker")
    manifest = an_artifact(tmp_path / "maker")
    (manifest.fetch() / "part" / "1.bin").write_bytes(b"weightz1")

    with pytest.raises(ArtifactCorrupt, match=r"1\.bin: sha256 is"):
        manifest.hand_over(tmp_path / "out")

    assert not any(key.endswith("manifest.json") for key in objects(remote))
    assert not (tmp_path / "out").exists()


def test_two_makers_of_one_id_never_mix(
    remote: str, cluster: Cluster, an_artifact: Callable[..., Manifest], tmp_path: Path
) -> None:
    """Training again may give other bytes; each manifest gets its own."""
    for name in (b"first", b"second"):
        home = tmp_path / name.decode()
        cluster.enter(home)
        an_artifact(home, name).hand_over(tmp_path / f"{name.decode()}.out")

    for name in ("first", "second"):
        cluster.enter(tmp_path / f"reader of {name}")
        read = Manifest.read(tmp_path / f"{name}.out", "model")
        assert read.path("part/0.bin").read_text() == f"{name}0"
    cluster.enter(tmp_path / "third")
    found = Manifest.find(cluster.lake, "model", "0123456789abcdef")
    assert found is not None
    assert found.path("part/0.bin").read_text() == "first0"


@contextmanager
def requiring_known_keys(server: str) -> Iterator[None]:
    """The server checks who asks, as a real one does; it knows nobody."""

    def reset(count: bytes) -> None:
        headers = {"content-type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset-auth", count, headers)).close()

    reset(b"0")
    try:
        yield
    finally:
        reset(b"1000000000")


def test_a_store_that_refuses_or_is_away_is_told_without_credentials(
    s3_server: str,
    remote: str,
    cluster: Cluster,
    an_artifact: Callable[..., Manifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster.enter(tmp_path / "maker")
    manifest = an_artifact(tmp_path / "maker")

    with (
        requiring_known_keys(s3_server),
        pytest.raises(Unavailable, match=r"refused .* AWS_SECRET_ACCESS_KEY") as refused,
    ):
        manifest.hand_over(tmp_path / "out")
    monkeypatch.setenv("MILLRACE_LAKE_REMOTE", f"s3://{remote}-of-nobody/lake")
    with pytest.raises(NotFound, match="check MILLRACE_LAKE_REMOTE") as absent:
        manifest.hand_over(tmp_path / "out")
    S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://a-user:a-password@127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Unavailable, match="check AWS_ENDPOINT_URL") as away:
        Manifest.find(cluster.lake, "model", "none")
    S3FileSystem.clear_instance_cache()

    shown = capsys.readouterr()
    told = "".join([shown.out, shown.err, *(str(error.value) for error in (refused, absent, away))])
    assert SECRET not in told
    assert "a-password" not in told
    assert not (tmp_path / "out").exists()


def test_nothing_that_is_kept_holds_a_credential(
    remote: str, cluster: Cluster, simulated_days: list[pa.Table], tmp_path: Path
) -> None:
    write_days(tmp_path / "raw", simulated_days[:3])

    cluster.run(ingest, "snapshot", source=str(tmp_path / "raw"))

    kept = [path.read_bytes() for path in cluster.folder.rglob("*") if path.is_file()]
    kept += [S3FileSystem().cat_file(f"{remote}/{key}") for key in objects(remote)]
    assert kept
    assert not any(SECRET.encode() in content for content in kept)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3://AKIA:hidden@bucket/lake", "a user, query or fragment, which is not shown"),
        ("s3://bucket/lake?token=hidden", "a user, query or fragment, which is not shown"),
        ("file:///srv/lake", "wanted an object store"),
        ("bucket/lake", "wanted an object store"),
        ("nosuch://bucket/lake", "a protocol that fsspec knows"),
    ],
)
def test_a_remote_that_is_none_is_refused(uri: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_LAKE_REMOTE", uri)
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))

    with pytest.raises(ConfigError, match=told) as refused:
        Manifest.find(tmp_path / "lake", "model", "none")

    assert "hidden" not in str(refused.value)


def test_what_lies_outside_the_lake_is_not_the_remotes_business(
    remote: str, cluster: Cluster, an_artifact: Callable[..., Manifest], tmp_path: Path
) -> None:
    manifest = an_artifact(tmp_path / "elsewhere")
    cluster.enter(tmp_path / "home")

    with pytest.raises(MillraceError, match="outside the lake"):
        manifest.hand_over(tmp_path / "out")
    assert manifest.fetch().is_dir()
    assert Manifest.find(tmp_path / "elsewhere" / "lake", "model", "none") is None
    assert objects(remote) == {}
