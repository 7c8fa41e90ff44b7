"""How fraud detection is judged: cards are the units, a missed fraud costs its amount, and thieves know the model.

Bad days are in `stress.py`, thieves in `adversary.py`, slices in `slices.py`, limits in `evaluate.yaml`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fraud.adversary import ATTACKS
from fraud.slices import slice_masks as slices
from fraud.stress import STRESSES
from fraud.whatif import inputs_of as what_if
from millrace.judge.rows import Columns

__all__ = ["ATTACKS", "STRESSES", "slices", "what_if"]

UNIT: Final = "customer"
UNIT_NOUN: Final = ("card", "cards")
POSITIVE_NOUN: Final = ("fraud", "frauds")
NEGATIVE: Final = "genuine"
MARKED: Final = "compromised"
COLUMNS: Final = Columns(
    unit="customer_id", label="is_fraud", value="amount_cents", value_scale=100, known_days=14
)  # 7 days of training and 7 of label delay, as in the published protocol
LOG_COLUMNS: Final = Columns(unit="customer_id", label="is_fraud", value="amount")
LIMITS: Final = Path(__file__).with_name("evaluate.yaml")
TITLES: Final = {
    "unit_precision": "card precision@{k}",
    "caught_value_share": "fraud caught, in money",
}
PURPOSE: Final = """\
Scoring card transactions as they happen, so that analysts look at the cards most likely compromised. The
score is a probability of fraud. It reads the feature service `{service}`: the request, the customer's past
transactions and the terminal's revealed frauds. It is not meant to decline payments by itself, nor to judge
people."""
CAVEATS: Final = (
    "Fraud at a newly compromised terminal is invisible until the first labels come back, about a week later.",
)
BASELINES: Final[dict[str, Any]] = {}
ATTACK_STORY: Final = "What a thief gains who knows that he is watched; a flagged payment blocks the card."
