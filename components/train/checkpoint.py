"""What a run leaves in its folder after every epoch, so that it can go on from there: checkpoint and curve."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, Final

import torch

from millrace.lake.atomic import replacing_file, write_text
from millrace.observe.progress import log

CHECKPOINT: Final = "checkpoint.pt"
CURVE: Final = "training_curve.json"


def keep(folder: Path, checkpoint: dict[str, Any]) -> None:
    """Replace checkpoint and curve; a kill at any moment leaves the old ones or the new ones."""
    with replacing_file(folder / CHECKPOINT) as aside:
        torch.save(checkpoint, aside)
    write_curve(folder, checkpoint["curve"])


def kept(folder: Path) -> dict[str, Any] | None:
    """What `keep` wrote last, in the memory of the CPU; None in a folder without. No code is loaded with it.

    One that cannot be read is named in the log, and as good as none: training begins anew.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        log(
            "checkpoint_unreadable",
            file=str(path),
            error=repr(error)[:120],
            healed="training begins anew",
        )
        return None
    return saved


def write_curve(folder: Path, curve: list[dict[str, float]]) -> None:
    write_text(folder / CURVE, json.dumps(curve, indent=2) + "\n")
