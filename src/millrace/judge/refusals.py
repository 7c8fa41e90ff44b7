"""What a gate that said no leaves behind, for whoever started the run: `<home>/refusals/<run>.json`.

Written by the gate's step before it fails, under the id that Kubeflow Pipelines gives the run, or `run.local` here. A
run that ended without one failed for another reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from millrace.errors import ArtifactCorrupt, GateBlocked, InvalidInput
from millrace.judge.gates import Verdict
from millrace.lake.atomic import write_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a run ended at a gate."""

    run: str
    """Id of the pipeline run."""
    message: str
    """Every failed rule with value and limit, and where the reports are; a line each."""
    verdicts: tuple[Verdict, ...]
    """All that the gate read, those that passed among them."""

    @property
    def sentence(self) -> str:
        """The verdicts that failed, in one line."""
        failed = [verdict for verdict in self.verdicts if not verdict.passed]
        return "; ".join(part for verdict in failed for part in (verdict.headline, *map(str, verdict.failures)))

    def write(self, home: Path) -> None:
        verdicts = [verdict.to_dict() for verdict in self.verdicts]
        document = {"run": self.run, "message": self.message, "verdicts": verdicts}
        write_text(refusal_path(home, self.run), json.dumps(document, indent=2) + "\n")


@contextmanager
def recorded(home: Path, run: str) -> Iterator[None]:
    """Keeps what blocks inside as the run's refusal, and lets it go on."""
    try:
        yield
    except GateBlocked as blocked:
        verdicts = tuple(said for said in blocked.verdicts if isinstance(said, Verdict))
        Refusal(run=run, message=str(blocked), verdicts=verdicts).write(home)
        raise


def refusal_of(home: Path, run: str) -> Refusal | None:
    """Why the run ended at a gate; None where no gate stopped it. Raises ArtifactCorrupt for what is no refusal."""
    path = refusal_path(home, run)
    if not path.is_file():
        return None

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        verdicts = tuple(Verdict.from_dict(item) for item in document["verdicts"])
        return Refusal(run=document["run"], message=document["message"], verdicts=verdicts)
    except (KeyError, TypeError, json.JSONDecodeError, InvalidInput) as error:
        raise ArtifactCorrupt(f"{path} is not a refusal: {error}. The log of run {run} says what happened.") from error


def refusal_path(home: Path, run: str) -> Path:
    return home / "refusals" / f"{run}.json"
