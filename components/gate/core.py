"""Turn verdicts into a stop. Artifacts that were judged in; GateBlocked out unless every one of them passed.

The verdict is read from `verdict.json` and recomputed from its rules: a `passed` written anywhere else does not
count. What is measured lives with the component that measures it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from millrace.errors import ArtifactCorrupt, GateBlocked, InvalidInput
from millrace.judge.gates import Rule, Verdict, require_all
from millrace.lake.manifest import Manifest
from millrace.observe.progress import log

JUDGED_KINDS = frozenset({"validation", "evaluation", "skew_check"})


def require(artifacts: Iterable[Manifest]) -> tuple[Verdict, ...]:
    """The verdicts, when all passed; raises GateBlocked naming each failed rule with value and limit, and the report.

    No artifacts are a failure too. Raises InvalidInput for an artifact that carries no verdict, ArtifactCorrupt for a
    verdict that is not the one its manifest was written with.
    """
    judged = tuple(artifacts)
    verdicts = tuple(_verdict(manifest) for manifest in judged)
    try:
        require_all(verdicts)
    except GateBlocked as blocked:
        failed = [manifest for manifest, verdict in zip(judged, verdicts, strict=True) if not verdict.passed]
        raise _with_reports(blocked, failed) from None
    log("gate", passed=[verdict.gate for verdict in verdicts], rules=sum(len(verdict.rules) for verdict in verdicts))
    return verdicts


def require_gain(evaluation: Manifest) -> Verdict:
    """The verdict that a challenger beats the champion: its gain, in the figure of the task, is above zero.

    "Not worse beyond doubt" is the evaluation's own rule; whoever wants to take over has to be better as well. Raises
    GateBlocked when it is not, or when there is no champion that it was compared with.
    """
    evaluation.verify()
    champion = json.loads(evaluation.path("report.json").read_text(encoding="utf-8")).get("champion") or {}
    comparison = champion.get("comparison") or {}
    gain = comparison.get("gain", {})
    detail = (
        f"over champion {champion.get('id')}, 95 % {gain.get('low')} to {gain.get('high')}"
        if gain
        else (champion.get("why_not") or "there is no champion but this very model")
    )
    verdict = Verdict("challenger", (Rule("gain", gain.get("value"), ">", 0.0, detail),))
    try:
        verdict.require()
    except GateBlocked as blocked:
        raise _with_reports(blocked, [evaluation]) from None
    log("gate", passed=[verdict.gate], gain=gain["value"])
    return verdict


def _with_reports(blocked: GateBlocked, failed: Iterable[Manifest]) -> GateBlocked:
    """The same error, its message followed by where people read why; the folder where there is no page."""
    pages = (manifest.fetch() / "report.html" for manifest in failed)
    lines = [f"Report: {page if page.is_file() else page.parent}" for page in pages]
    blocked.args = ("\n".join([str(blocked), *lines]),)
    return blocked


def _verdict(manifest: Manifest) -> Verdict:
    if manifest.kind not in JUDGED_KINDS:
        raise InvalidInput(f"{manifest.kind} {manifest.id} carries no verdict; wanted one of {sorted(JUDGED_KINDS)}")
    manifest.verify()
    path = manifest.path("verdict.json")
    try:
        return Verdict.read(path)
    except (InvalidInput, json.JSONDecodeError) as error:
        raise ArtifactCorrupt(f"{path} is not a verdict: {error}. Run the step that made it again.") from error
