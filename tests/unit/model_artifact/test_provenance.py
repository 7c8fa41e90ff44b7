"""What is said about the code, the packages and the machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from millrace.installed import Workload
from millrace.lake import provenance


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


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`components/judge` imports `millrace.figures` in a function, which imports `millrace.deep.sums`."""
    sources = {
        "components/judge/core.py": "def judge():\n    from millrace import (\n        figures as f,\n    )\n",
        "millrace/__init__.py": "",
        "millrace/figures.py": "from millrace.deep import sums\nfrom millrace.lake.atomic import x\n",
        "millrace/deep/sums.py": "import millrace.figures\n",
        "millrace/lake/atomic.py": "",
        "millrace/cli.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "source_folders", lambda: (tmp_path / "millrace", tmp_path / "components"))
    return tmp_path


@pytest.mark.parametrize(
    ("edited", "matters"),
    [
        ("components/judge/core.py", True),
        ("components/judge/judge.yaml", True),
        ("millrace/figures.py", True),
        ("millrace/deep/sums.py", True),
        ("millrace/lake/atomic.py", False),
        ("millrace/cli.py", False),
    ],
)
def test_the_code_of_a_component_is_what_it_imports_however_far_away(package: Path, edited: str, matters: bool):
    read = provenance.code_of.__wrapped__  # as a new process would
    before = read(package / "components" / "judge")

    with (package / edited).open("a") as stream:
        stream.write("\n# edited")

    assert (read(package / "components" / "judge") != before) == matters


@pytest.mark.parametrize(
    ("component", "module"),
    [
        ("check_skew", "millrace.inputs"),
        ("evaluate", "millrace.judge.bootstrap"),
        ("optimise", "millrace.registry.model_artifact"),
        ("materialize", "millrace.lake.states"),
        ("assemble", "millrace.lake.horizon"),
        ("train", "millrace.lake.training_set"),
    ],
)
def test_the_code_of_a_real_component_reaches_what_decides_its_result(component: str, module: str):
    roots = {folder.name: folder for folder in provenance.source_folders()}
    package, *rest = module.split(".")
    decisive = roots[package].joinpath(*rest).with_suffix(".py")

    assert decisive in provenance.code_files(roots["components"] / component)


def test_the_code_of_a_workload_is_followed_through_its_own_package(machines: Workload):
    """The platform imports no workload, so its parts are named, and what they import belongs to it."""
    found = {f"{path.parent.name}/{path.name}" for path in provenance.code_files(*machines.files("batch"))}

    assert {"machines/batch.py", "machines/schema.py", "machines/online.py", "features/events.py"} <= found
    assert "machines/exchange.py" not in found


def test_packages_and_hardware_are_named():
    assert {"python", "numpy", "onnxruntime"} <= provenance.package_versions().keys()
    assert provenance.hardware()["cores"] >= 1
    assert provenance.hardware()["memory_gib"] > 0
