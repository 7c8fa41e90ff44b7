"""Raw events on S3: read through s3fs from a real S3-compatible server, credentials from the environment only."""

from __future__ import annotations

import io
from pathlib import Path

import boto3
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import SECRET
from s3fs import S3FileSystem

from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from millrace.errors import MillraceError
from millrace.lake.manifest import Manifest


def put(bucket: str, day: pa.Table) -> str:
    """A day of raw events as one object; its URI."""
    uri = f"s3://{bucket}/raw/{day['event_timestamp'][0].as_py().date()}.parquet"
    with fsspec.open(uri, "wb") as stream:
        pq.write_table(day, stream)
    return uri


def ingested(source: str, lake: Path) -> Manifest:
    return ingest(source, lake, IngestConfig(workload="fraud", pseudonym_key=b"a key of tests"))


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("form", ["s3://{}/raw", "s3://{}/raw/*.parquet", "s3://{}/raw/2018-04-01.parquet"])
def test_a_source_on_s3_gives_the_rows_of_a_folder(
    bucket: str, tmp_path: Path, simulated_days: list[pa.Table], form: str
) -> None:
    days = simulated_days[:1] if form.endswith("01.parquet") else simulated_days[:3]
    (tmp_path / "raw").mkdir()
    for number, day in enumerate(days):
        put(bucket, day)
        pq.write_table(day, tmp_path / "raw" / f"{number}.parquet")

    from_s3 = ingested(form.format(bucket), tmp_path / "lake")

    assert from_s3.facts["rows"] == sum(len(day) for day in days)
    assert from_s3.facts["source"]["uri"] == form.format(bucket)
    from_folder = ingested(str(tmp_path / "raw"), tmp_path / "other")
    partitions = [[path.name for path in found.table("events")] for found in (from_s3, from_folder)]
    assert partitions[0] == partitions[1]


def test_an_object_that_is_added_or_written_anew_is_noticed_by_the_same_process(
    bucket: str, tmp_path: Path, simulated_days: list[pa.Table]
) -> None:
    source, lake = f"s3://{bucket}/raw", tmp_path / "lake"
    put(bucket, simulated_days[0])
    first = ingested(source, lake)
    assert ingested(source, lake).id == first.id
    client = boto3.client("s3")

    for day, rows in ((simulated_days[1], len(simulated_days[1])), (simulated_days[1][:10], 10)):
        stream = io.BytesIO()
        pq.write_table(day, stream)
        client.put_object(Bucket=bucket, Key="raw/2018-04-02.parquet", Body=stream.getvalue())

        assert ingested(source, lake).facts["rows"] == len(simulated_days[0]) + rows
    client.close()


def test_no_credential_of_the_environment_or_the_uri_is_kept_or_shown(
    bucket: str, tmp_path: Path, simulated_days: list[pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    uri = put(bucket, simulated_days[0])
    lake = tmp_path / "lake"

    ingested(uri, lake)
    with pytest.raises(MillraceError) as missing:
        ingested(f"s3://{bucket}/nothing", lake)

    shown = capsys.readouterr()
    told = shown.out + shown.err + str(missing.value)
    assert SECRET not in told
    assert SECRET.encode() not in contents(lake)
    assert "does not exist" in str(missing.value)


def test_a_store_that_is_away_or_refuses_is_an_error_without_credentials(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    with pytest.raises(Exception, match=r"127\.0\.0\.1:9|connect") as away:
        ingested(f"s3://{bucket}/raw", tmp_path / "lake")

    assert SECRET not in str(away.value)
    assert not list((tmp_path / "lake").glob("snapshots/*"))
