"""What is said about the code, the packages and the machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from millrace import provenance


def test_the_variable_of_an_image_wins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MILLRACE_CODE_VERSION", "image:abc")

    assert provenance.code_version() == "image:abc"


def test_a_checkout_is_named_by_its_commit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MILLRACE_CODE_VERSION", raising=False)

    assert re.fullmatch(
        r"git:[0-9a-f]{40}(\+dirty\.[0-9a-f]{12})?|0\.1\.0\+src\.[0-9a-f]{12}", provenance.code_version()
    )


def test_without_git_the_sources_are_hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MILLRACE_CODE_VERSION", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    provenance._code_version.cache_clear()

    version = provenance.code_version()
    provenance._code_version.cache_clear()

    assert re.fullmatch(r"0\.1\.0\+src\.[0-9a-f]{12}", version)


def test_the_hash_of_sources_changes_with_a_byte_and_with_a_name(tmp_path: Path):
    (tmp_path / "a.py").write_text("x = 1\n")
    first = provenance.hash_sources([tmp_path])
    (tmp_path / "notes.txt").write_text("not code")
    same = provenance.hash_sources([tmp_path])
    (tmp_path / "a.py").write_text("x = 2\n")
    edited = provenance.hash_sources([tmp_path])
    (tmp_path / "a.py").rename(tmp_path / "b.py")

    assert same == first
    assert len({first, edited, provenance.hash_sources([tmp_path])}) == 3


def test_packages_and_hardware_are_named():
    assert {"python", "numpy", "onnxruntime"} <= provenance.package_versions().keys()
    assert provenance.hardware()["cores"] >= 1
    assert provenance.hardware()["memory_gib"] > 0
