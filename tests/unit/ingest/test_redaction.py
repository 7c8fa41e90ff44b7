"""What is shown of a source: never the credentials in its URI."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from components.ingest.__main__ import main
from components.ingest.core import source_version
from millrace.errors import MillraceError, Unavailable
from millrace.reading.redaction import redacting
from millrace.uris import redacted


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://h/a.csv?sig=SECRET&x=1", "https://h/a.csv"),
        ("https://h/a.csv?SECRET", "https://h/a.csv"),
        ("https://h/a.csv#SECRET", "https://h/a.csv"),
        ("s3://key:SECRET@bucket/day=?/*.csv", "s3://bucket/day=?/*.csv"),
        ("ftp://u:SE@CRET@h/a.csv", "ftp://h/a.csv"),
        ("https://u:SE?CRET@h/a.csv", "https://h/a.csv"),
        ("abfs://c/a.csv?sv=1&sig=SECRET", "abfs://c/a.csv"),
        ("zip://a.csv::https://u:SECRET@h/z.zip?sig=SECRET", "zip://a.csv::https://h/z.zip"),
        ("simplecache::https://h/a?sig=SECRET::more", "simplecache::https://h/a::more"),
        ("404, url='https://h/a?sig=SECRET' of 2", "404, url='https://h/a' of 2"),
        ("/local/day?.csv", "/local/day?.csv"),
    ],
)
def test_only_what_may_be_a_secret_is_left_out(uri: str, shown: str) -> None:
    assert redacted(uri) == shown


@pytest.mark.parametrize(
    "source",
    ["http://u:SECRET@127.0.0.1:9/a.csv?sig=SECRET", "nonsense://u:SECRET@h/a?sig=SECRET", "file:///no/a?sig=SECRET"],
)
def test_no_error_shows_the_credentials_of_its_source(
    source: str, lake: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))

    with pytest.raises(MillraceError) as failure:
        lake.ingest(source)
    with contextlib.suppress(MillraceError):
        source_version(source)
    assert main([source]) == 2

    shown = capsys.readouterr()
    assert "SECRET" not in str(failure.value) + shown.out + shown.err


def test_an_error_of_a_store_is_told_without_credentials_and_others_stay_as_they_are() -> None:
    with pytest.raises(Unavailable, match=r"RuntimeError: 403 at https://h/a$") as told, redacting():
        raise RuntimeError("403 at https://h/a?sig=SECRET")
    assert told.value.__suppress_context__
    with pytest.raises(PermissionError), redacting():
        raise PermissionError("/local/file")
