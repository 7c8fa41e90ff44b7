"""What a request says of a transaction beside its ids and its time, and what the answer's figures are called."""

from __future__ import annotations

from typing import Final

ASKED: Final = ("amount",)
ANSWER: Final = {"score": "score"}
EXAMPLE: Final = {"customer_id": "596", "terminal_id": "3156", "amount": 57.16}
