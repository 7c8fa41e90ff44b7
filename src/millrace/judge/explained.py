"""Rules in words: what each measures, what to do when it fails, and which rules may be accepted by name.

The words are in `rules.yaml`, whose names stand for the fields, entities, views, bad days and attacks of any workload.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Final

import yaml

from millrace.errors import InvalidInput
from millrace.installed import Workload
from millrace.judge.gates import Rule, Verdict, family
from millrace.workload import Task

ACCEPTABLE: Final = ("data", "evaluation", "skew")
"""Gates whose rules a run may go on without."""
COMPONENT: Final = {"data": "validate", "evaluation": "evaluate"}
"""Gate → the component in whose overrides its limits are."""
WANTED: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than", "==": "exactly"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """One kind of rule."""

    measures: str
    next: str
    limit: str = ""
    """Key of the limit; empty where it is in no file."""
    only: str = ""
    """`classes` or `quantity`, where other labels have no such rule."""
    acceptable: bool = True
    """False where the steps after the gate cannot work without it."""


@cache
def explanations(gate: str) -> Mapping[str, Explanation]:
    """Name, with what stands for the workload's own, → what it means; empty for a gate that nobody explained."""
    document = yaml.safe_load(Path(__file__).with_name("rules.yaml").read_text(encoding="utf-8"))
    return {name: Explanation(**said) for name, said in document.get(gate, {}).items()}


def explain(gate: str, name: str) -> Explanation | None:
    """What the rule of this name means; None for one that nobody explained."""
    found = explanations(gate)
    if name in found:
        return found[name]
    return next((said for template, said in found.items() if _pattern(template).fullmatch(name)), None)


def sentences(verdict: Verdict) -> list[str]:
    """Each kind of rule that blocks as sentences: what it measures, got, wanted, what to do, and which others fail."""
    found: dict[str, list[Rule]] = {}
    for rule in verdict.failures:
        found.setdefault(family(rule.name), []).append(rule)

    said = []
    for first, *others in found.values():
        also = ", ".join(f"{rule.name} ({_got(rule)})" for rule in others)
        said.append(sentence(verdict.gate, first) + (f" The same of {also}." if also else ""))
    return said


def sentence(gate: str, rule: Rule) -> str:
    """One rule that did not pass: what it measures, got, wanted, and what to do."""
    said = explain(gate, rule.name)
    measures = f", {said.measures}" if said else ""
    detail = f" {_capital(rule.detail).rstrip('.')}." if rule.detail else ""
    return (
        f"{rule.name}{measures}: got {_got(rule)}, wanted {WANTED[rule.comparison]} {rule.limit:.4g}.{detail} "
        f"{_next_step(gate, rule.name, said)}"
    )


def _got(rule: Rule) -> str:
    return "not measured" if rule.measured is None else f"{rule.measured:.4g}"


def _next_step(gate: str, name: str, said: Explanation | None) -> str:
    steps = [_capital(said.next)] if said else []
    if said and said.limit:
        key = said.limit.replace("NAME", name.partition("[")[2].rstrip("]"))
        steps.append(f"change {key} under {COMPONENT[gate]} in --overrides")
    if gate in ACCEPTABLE and (said is None or said.acceptable):
        steps.append(f"accept it: --accept '{name}=REASON'")
    return ", or ".join(steps) + "." if steps else ""


def require_known(workload: Workload, accept: Mapping[str, str]) -> None:
    """Raises InvalidInput for a rule that no gate has or that nobody can do without, and for an empty reason."""
    for name, reason in accept.items():
        if not str(reason).strip():
            raise InvalidInput(f"--accept {name}= has no reason; wanted why the run may go on without it")

        said = [explain(gate, name) for gate in ACCEPTABLE]
        if any(one is not None and not one.acceptable for one in said):
            raise InvalidInput(
                f"--accept {name}: without it there is nothing to learn from or to judge by. Give more data"
            )

        names = sorted({known for gate in ACCEPTABLE for known in names_of(workload, gate)})
        if name in names or any(_pattern(known).fullmatch(name) for known in names if known.endswith("[*]")):
            continue
        close = difflib.get_close_matches(name, names, 3, 0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"
        raise InvalidInput(f"--accept {name}: no gate of workload {workload.name!r} has such a rule; {hint}")


def names_of(workload: Workload, gate: str) -> Iterator[str]:
    """Names of the rules that a gate may have; those of slices end in `[*]`."""
    own = _own_names(workload)
    kind = "quantity" if workload.task is Task.REGRESSION else "classes"
    for template, said in explanations(gate).items():
        if said.only not in ("", kind):
            continue

        placeholders = re.findall(r"\{(\w+)\}", template)
        for chosen in product(*(own[name] for name in placeholders)):
            name = template
            for placeholder, value in zip(placeholders, chosen, strict=True):
                name = name.replace(f"{{{placeholder}}}", value)
            yield name


def _own_names(workload: Workload) -> dict[str, Iterable[str]]:
    judging = workload.judging
    ranked = workload.ranked.ATTACKS if workload.task is Task.RANKING else {}
    simple = ("constant", "linear") if workload.task is Task.REGRESSION else ("logistic_regression", "xgboost")
    return {
        "field": [field.name for field in workload.schema.FIELDS],
        "entity": [entity.name for entity in workload.schema.ENTITIES],
        "view": [view.name for view in workload.features.VIEWS],
        "stress": list(judging.STRESSES),
        "attack": ["as_it_was", *ranked],
        "baseline": [*simple, *judging.BASELINES],
    }


def _pattern(template: str) -> re.Pattern[str]:
    """What a name looks like that the template stands for."""
    return re.compile(re.sub(r"\\\{\w+\\\}|\\\*", ".+", re.escape(template)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
