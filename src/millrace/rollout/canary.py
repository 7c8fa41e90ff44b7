"""A canary as it is written into an InferenceService: documents in, documents out; no I/O.

The annotations `rollout.millrace.io/…` are all that a rollout remembers, in both homes: whoever comes next goes on
from them. When traffic moves is `millrace.rollout.decision`; who writes the document is `serving/rollout` and
`components/promote`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from millrace.errors import ConfigError
from millrace.rollout.decision import Phase, State

VERSION_ANNOTATION: Final = "millrace.io/model-version"
PREFIX: Final = "rollout.millrace.io/"
CONTAINER: Final = "kserve-container"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rollout:
    """What the annotations say; times are ISO, UTC."""

    phase: str
    percent: str
    began: str
    step_began: str
    stable_version: str
    stable_uri: str
    canary_version: str
    canary_uri: str
    ready: str = ""
    """Since when the canary has had traffic: the first step begins then."""
    reason: str = ""

    @property
    def state(self) -> State:
        return State(int(self.percent), _seconds(self.began), _seconds(self.step_began), Phase(self.phase))

    @property
    def progressing(self) -> bool:
        return self.phase == Phase.PROGRESSING

    @property
    def stable(self) -> int:
        return int(self.stable_version)

    @property
    def canary(self) -> int:
        return int(self.canary_version)


def read(document: Mapping[str, Any]) -> Rollout | None:
    """The rollout that a document tells of, or None; raises ConfigError when its annotations are incomplete."""
    annotations = document["metadata"].get("annotations") or {}
    found = {
        key.removeprefix(PREFIX).replace("-", "_"): str(value)
        for key, value in annotations.items()
        if key.startswith(PREFIX)
    }
    if "phase" not in found:
        return None

    try:
        rollout = Rollout(**{name: found.get(name, "") for name in Rollout.__slots__})
        _ = (rollout.state, rollout.stable, rollout.canary)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the annotations {PREFIX}… of {document['metadata'].get('name')} cannot be read ({error!r}). "
            f"Remove them and spec.predictor.canaryTrafficPercent, then start the canary again."
        ) from error

    return rollout


def started(document: Mapping[str, Any], canary: tuple[int, str], percent: int, now: float) -> Document:
    """The document with version and URI of `canary`, which gets `percent` of the traffic; what it had is stable."""
    version, uri = serving(document)
    at = _iso(now)
    rollout = Rollout(
        Phase.PROGRESSING, str(percent), at, at, str(version), uri, str(canary[0]), canary[1], reason="started"
    )
    changed = pointed(document, *canary)
    changed["spec"]["predictor"]["canaryTrafficPercent"] = percent
    return _annotated(changed, rollout)


def ready(document: Mapping[str, Any], now: float) -> Document:
    """The canary has started and gets traffic: its first step begins."""
    changed = copy.deepcopy(dict(document))
    return _annotated(changed, _replaced(document, ready=_iso(now), step_began=_iso(now)))


def advanced(document: Mapping[str, Any], percent: int, now: float, reason: str) -> Document:
    """The next step."""
    changed = copy.deepcopy(dict(document))
    changed["spec"]["predictor"]["canaryTrafficPercent"] = percent
    return _annotated(changed, _replaced(document, percent=str(percent), step_began=_iso(now), reason=reason))


def promoted(document: Mapping[str, Any], now: float, reason: str) -> Document:
    """All traffic to the newest: the split is gone."""
    changed = copy.deepcopy(dict(document))
    changed["spec"]["predictor"].pop("canaryTrafficPercent", None)
    return _annotated(
        changed, _replaced(document, phase=Phase.PROMOTED, percent="100", step_began=_iso(now), reason=reason)
    )


def rolled_back(document: Mapping[str, Any], now: float, reason: str) -> Document:
    """No traffic to the newest, at once, and what the stable revision runs wanted again."""
    rollout = _replaced(document, phase=Phase.ROLLED_BACK, percent="0", step_began=_iso(now), reason=reason)
    changed = pointed(document, rollout.stable, rollout.stable_uri)
    changed["spec"]["predictor"]["canaryTrafficPercent"] = 0
    return _annotated(changed, rollout)


def pointed(document: Mapping[str, Any], version: int, uri: str) -> Document:
    """A copy that serves another model version; raises ConfigError when it lacks what names one."""
    changed = copy.deepcopy(dict(document))
    changed["metadata"].setdefault("annotations", {})[VERSION_ANNOTATION] = str(version)
    for name, value in (("STORAGE_URI", uri), ("MODEL_VERSION", str(version))):
        _variable(changed, name)["value"] = value
    return changed


def serves(document: Mapping[str, Any]) -> int | None:
    """The newest revision's model version, or None where none is set."""
    version = str((document["metadata"].get("annotations") or {}).get(VERSION_ANNOTATION, "unset"))
    return int(version) if version.isdigit() else None


def serving(document: Mapping[str, Any]) -> tuple[int, str]:
    """Version and URI of the newest revision's model; raises ConfigError where none is set."""
    version = serves(document)
    if version is None:
        raise ConfigError(f"{document['metadata'].get('name')} serves no version yet; {VERSION_ANNOTATION} is not set")
    return version, str(_variable(document, "STORAGE_URI")["value"])


def stable_version(document: Mapping[str, Any]) -> int:
    """The version that answers unless a canary does: the one that was last rolled out."""
    rollout = read(document)
    version = rollout.stable if rollout is not None and rollout.progressing else serves(document)
    if version is None:
        raise ConfigError(f"{document['metadata'].get('name')} serves no version yet; {VERSION_ANNOTATION} is not set")
    return version


def _variable(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    try:
        containers = document["spec"]["predictor"]["containers"]
        environment = next(item for item in containers if item["name"] == CONTAINER).setdefault("env", [])
    except (KeyError, TypeError, StopIteration) as error:
        raise ConfigError(f"the InferenceService has no predictor container {CONTAINER!r} ({error!r})") from error

    found = next((item for item in environment if item["name"] == name), None)
    if found is None:
        found = {"name": name, "value": "unset"}
        environment.insert(0, found)
    variable: dict[str, Any] = found
    return variable


def _replaced(document: Mapping[str, Any], **changes: str) -> Rollout:
    rollout = read(document)
    if rollout is None:
        raise ConfigError("no rollout is under way. Start one with: make canary")
    return Rollout(**asdict(rollout) | changes)


def _annotated(document: Document, rollout: Rollout) -> Document:
    annotations = document["metadata"].setdefault("annotations", {})
    for name, value in asdict(rollout).items():
        annotations[PREFIX + name.replace("_", "-")] = str(value)
    return document


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
