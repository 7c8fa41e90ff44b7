"""What is asked of a reading, and what the answer is called."""

from typing import Final

ASKED: Final = ("heat", "load")
ANSWER: Final = {"score": "hours", "low": "low", "high": "high"}
EXAMPLE: Final = {"machine": "7", "hall": "north", "heat": 0.4, "load": 0.5}
