"""Prediction events and rows of the prediction log, for tests: a scored card payment with what a test says of it."""

from __future__ import annotations

from typing import Any

KEYS = ("customer_id", "terminal_id")
FIELDS = ("amount",)
NAMES = {"transaction_id": "event_id"}
DATA = {
    "workload": "fraud",
    "event_timestamp": "2018-09-30T11:59:59Z",
    "customer_id": "0123456789abcdef",
    "terminal_id": "42",
    "amount": 12.5,
    "model_name": "fraud-detector",
    "model_version": "3",
    "score": 0.25,
    "decision": "approve",
    "degraded": False,
    "stage": "full",
    "arm": "champion",
    "latency_ms": 3.5,
    "features": [1.5, None, 0.25],
    "feature_service": "fraud_v1",
}


def told(said: dict[str, Any]) -> dict[str, Any]:
    """What is said by fraud's own names, as an event and a row of the log say it: keys and fields apart."""
    data = {NAMES.get(name, name): value for name, value in said.items() if name not in KEYS + FIELDS}
    data["keys"] = {name: said[name] for name in KEYS if name in said}
    data["fields"] = {name: said[name] for name in FIELDS if name in said}
    return data


def prediction_event(number: int, **data: Any) -> dict[str, Any]:
    """An event of the transformer, by transaction number; keywords change its data."""
    return {
        "specversion": "1.0",
        "type": "io.millrace.prediction",
        "id": f"request-{number}:0",
        "source": "/millrace/fraud-detector",
        "subject": str(number),
        "time": "2018-09-30T12:00:00.123Z",
        "data": told(DATA | {"transaction_id": number} | data),
    }


def label_row(number: int, is_fraud: Any, known: Any) -> dict[str, Any]:
    """A label as the log keeps it."""
    return {"workload": "fraud", "event_id": number, "label_timestamp": known, "value": float(is_fraud)}
