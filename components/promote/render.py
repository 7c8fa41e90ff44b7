"""The InferenceService and the model card of one version. Documents in, text out; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from millrace.errors import ConfigError
from millrace.judge.gates import Rule, Verdict
from millrace.lake.manifest import Manifest
from millrace.rollout.canary import VERSION_ANNOTATION

PREDICTOR = "kserve-container"


class _Plain(yaml.SafeDumper):
    """Writes a shared mapping out each time: anchors are hard to review and some tools refuse them."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def inference_service(base: str, version: int, uri: str) -> str:
    """`base` (YAML) pointed at one model version; raises ConfigError when it is not shaped like the base manifest."""
    document = yaml.safe_load(base)
    try:
        document["metadata"]["annotations"][VERSION_ANNOTATION] = str(version)
        containers = document["spec"]["predictor"]["containers"]
        environment = next(item["env"] for item in containers if item["name"] == PREDICTOR)
        for name, value in (("STORAGE_URI", uri), ("MODEL_VERSION", str(version))):
            next(item for item in environment if item["name"] == name)["value"] = value
    except (KeyError, TypeError, StopIteration) as error:
        raise ConfigError(
            f"the InferenceService lacks what promotion fills in ({error!r}); wanted metadata.annotations and a "
            f"predictor container {PREDICTOR!r} with STORAGE_URI and MODEL_VERSION in its env"
        ) from error
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=120)


def model_card(model: Manifest, evaluation: Manifest, verdicts: Sequence[Verdict], version: int) -> str:
    """Markdown: which version, where it comes from, how it was judged. The evaluation's own model card is the body."""
    own = "model_card.md"
    body = evaluation.path(own).read_text(encoding="utf-8") if own in evaluation.files else _figures(evaluation)
    origin = {**model.parents, "evaluation": evaluation.id}
    lines = [
        f"# {model.facts.get('name', 'model')}, version {version}",
        "",
        f"Artifact `{model.id}`.{_threshold(model)}",
        "",
        "| comes from | id |",
        "|---|---|",
        *(f"| {kind} | `{identity}` |" for kind, identity in origin.items()),
        "",
        "| gate | rule | value | wanted |",
        "|---|---|---|---|",
        *(
            f"| {verdict.gate} | {rule.name} | {_value(rule)} | {rule.comparison} {rule.limit:.6g}{_mark(rule)} |"
            for verdict in verdicts
            for rule in verdict.rules
        ),
        "",
        *_accepted(verdicts),
        body,
    ]
    return "\n".join(lines).rstrip() + "\n"


def _value(rule: Rule) -> str:
    return "not measured" if rule.measured is None else f"{rule.measured:.6g}"


def _mark(rule: Rule) -> str:
    return ", accepted" if rule.accepted and not rule.passed else ""


def _accepted(verdicts: Sequence[Verdict]) -> list[str]:
    """What the model was let in without, and why; nothing where every rule passed."""
    lines = [f"- {verdict.gate}: `{rule.name}`: {rule.accepted}" for verdict in verdicts for rule in verdict.accepted]
    return ["## Accepted although it did not pass", "", *lines, ""] if lines else []


def _threshold(model: Manifest) -> str:
    """A sentence on the decision threshold; nothing for a model whose scores are no decisions."""
    threshold = model.facts.get("decision_threshold")
    return "" if threshold is None else f" Decision threshold {threshold}."


def _figures(evaluation: Manifest) -> str:
    metrics = evaluation.facts.get("metrics", {})
    return "\n".join(["## Figures", "", *(f"- {name}: {value}" for name, value in metrics.items())])
