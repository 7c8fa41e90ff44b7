"""A real S3-compatible server over HTTP, and a bucket in it that the environment names, as it does in a pod."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from s3fs import S3FileSystem

from millrace.lake.atomic import sha256_text

SECRET: Final = "wJalrXUtnFEMI-not-a-real-one"


@contextmanager
def running_server() -> Iterator[str]:
    """Its URL."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        yield "http://{}:{}".format(*running.get_host_and_port())
    finally:
        running.stop()


def make_bucket(server: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket; where it is and who may read it is in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    name = sha256_text(str(folder))[:16]
    S3FileSystem.clear_instance_cache()
    S3FileSystem().mkdir(name)
    return name
