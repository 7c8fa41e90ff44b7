"""The wall: the platform says nothing of any workload. Each workload's own words are counted outside its package.

Names, string literals and docstrings of Python, and the words of YAML and file names, all count.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLATFORM = (
    "src/millrace",
    "components",
    "serving",
    "pipelines",
    "run",
    "edge",
    "search",
    "drill",
    "feature_repo",
    "manifests",
)
OWN = ("manifests/workloads", "pipelines/compiled")
"""Places inside the platform's folders that belong to workloads: their manifests, and what is made from all of it."""
WORDS = {
    "fraud": {"fraud", "fraudulent", "fraudster", "card", "customer", "terminal", "amount"},
    "trips": {"trip", "taxi", "zone", "pickup", "dropoff", "borough", "fare", "passenger"},
}
OTHER_MEANINGS = {
    "zone": re.compile(
        r"(time|its|without a|with a|no|with|iana) ?zone|zone ?info|topology\S*zone|(and|availability) zone|zone of",
        re.I,
    ),
    "trip": re.compile(r"round[- ]trip", re.I),
    "card": re.compile(r"model[_ -]?card|cardinalit|wild ?card", re.I),
    "terminal": re.compile(
        r"when a terminal|the terminal (sees|looks)|isatty|terminal (width|looks)|narrow terminal", re.I
    ),
}
"""What a word also means in this field: text that is taken out before the words are counted."""


def texts(path: Path) -> Iterator[str]:
    """What a file says: names and literals of Python, all of YAML and JSON; and how it is called."""
    yield path.stem
    if path.suffix != ".py":
        yield path.read_text(encoding="utf-8")
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name
            case ast.ImportFrom(module=str(name)):
                yield name
            case ast.alias(name=name, asname=other):
                yield f"{name} {other or ''}"


def words(text: str) -> Iterator[str]:
    """Words of prose and of names, in the singular: `customerIds_2` → customer, id."""
    for meaning in OTHER_MEANINGS.values():
        text = meaning.sub(" ", text)
    for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text):
        word = part.lower()
        yield word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def counts(workload: str) -> Counter[str]:
    """File of the platform → how often it uses a word of the workload."""
    found: Counter[str] = Counter()
    for folder in PLATFORM:
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix not in {".py", ".yaml", ".json"} or name.startswith(OWN):
                continue
            used = sum(word in WORDS[workload] for text in texts(path) for word in words(text))
            if used:
                found[name] = used
    return found


@pytest.mark.parametrize("workload", sorted(WORDS))
def test_the_platform_says_nothing_of_a_workload(workload: str) -> None:
    found = counts(workload)

    assert found == {}


@pytest.mark.parametrize("text", ["customer_id", "TerminalState", "two cards", "MILLRACE_AMOUNTS", "the fraud share"])
def test_a_word_of_a_workload_is_found_however_it_is_written(text: str) -> None:
    assert any(word in WORDS["fraud"] for word in words(text))
