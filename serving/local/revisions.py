"""Revisions of a predictor as Knative keeps them: the one last rolled out, and the newest. Kept in a file per service.

A change of what the predictor runs makes a new revision; a change of its traffic or scale does not. Going back to what
was last rolled out makes none either: that revision is still there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from millrace.lake.atomic import sha256_text, write_text
from serving.local.manifest import VERSION_ANNOTATION

NOT_THE_TEMPLATE: Final = {"canaryTrafficPercent", "minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "logger"}


@dataclass(frozen=True, slots=True)
class Revision:
    """What one revision runs; `document` is the InferenceService that made it."""

    number: int
    hash: str
    document: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.document['metadata']['name']}-predictor-{self.number:05d}"

    @property
    def model_version(self) -> str:
        return str((self.document["metadata"].get("annotations") or {}).get(VERSION_ANNOTATION, "unset"))


@dataclass(frozen=True, slots=True)
class Revisions:
    """The two that matter; they are one when nothing is being rolled out."""

    created: int
    rolled_out: Revision
    newest: Revision

    @classmethod
    def following(cls, known: Revisions | None, document: dict[str, Any]) -> Revisions:
        """What there is once `document` is wanted; the very first revision counts as rolled out."""
        hash_ = template_hash(document)
        if known is None:
            first = Revision(1, hash_, document)
            return cls(1, first, first)
        if hash_ == known.rolled_out.hash:
            return replace(known, newest=known.rolled_out)
        if hash_ == known.newest.hash:
            return known
        made = Revision(known.created + 1, hash_, document)
        return replace(known, created=made.number, newest=made)

    def rolled(self) -> Revisions:
        """The newest has all the traffic."""
        return replace(self, rolled_out=self.newest)

    @classmethod
    def read(cls, path: Path) -> Revisions | None:
        """What an earlier run left; None without a readable file."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(document["created"], Revision(**document["rolled_out"]), Revision(**document["newest"]))
        except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self)) + "\n")


def template_hash(document: Mapping[str, Any]) -> str:
    """Of what the predictor runs."""
    template = {key: value for key, value in document["spec"]["predictor"].items() if key not in NOT_THE_TEMPLATE}
    return sha256_text(json.dumps(template, sort_keys=True))[:16]
