"""What happens to a checked request between its lookup and its answer: states in, model inputs and answers out; no I/O.

Rows of one request are taken in their order: a customer's second row sees the first one in the history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from fraud.features import TERMINAL_STATE_FIELDS, terminal_risk
from fraud.online import (
    EMPTY_STATE,
    CustomerState,
    Response,
    customer_states,
    model_inputs,
    terminal_states,
)
from fraud.reasons import GROUPS, reasons, variants
from fraud.requests import FIELDS, OPTIONAL, Transactions, from_columns
from millrace.errors import Unavailable
from serving.protocol import V2Answer, V2Request
from serving.tensors import MAX_ROWS, TensorSpec
from serving.transformer.journal import Entry
from serving.transformer.state import Overlay

_DATATYPES: Final = {"transaction_id": "INT64", "amount": "FP64"}
INPUTS: Final = tuple(TensorSpec(name, _DATATYPES.get(name, "BYTES"), (-1,), name in OPTIONAL) for name in FIELDS)
OUTPUTS: Final = (
    TensorSpec("transaction_id", "INT64", (-1,)),
    TensorSpec("score", "FP32", (-1,)),
    TensorSpec("decision", "BYTES", (-1,)),
    TensorSpec("model_version", "BYTES", (-1,)),
    TensorSpec("reasons", "BYTES", (-1,)),  # a JSON list in each row
    TensorSpec("degraded", "BOOL", (-1,)),
)
EXPLAINED_AT_ONCE: Final = MAX_ROWS // len(GROUPS)
"""Flagged rows whose variants fit into one request to the predictor."""
REVIEW: Final = "review"
APPROVE: Final = "approve"
CHAMPION, CHALLENGER, SHADOW = "champion", "challenger", "shadow"
"""Arms: the model that decides, the one that decides for its share of an A/B test, the one that only listens."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Model inputs of B rows, the states they were made from, and what the states must remember afterwards."""

    features: NDArray[np.float32]  # [B, F]
    history: NDArray[np.float32]  # [B, N, C]
    customers: list[CustomerState]
    terminals: NDArray[np.int64]  # [B, len(TERMINAL_STATE_FIELDS)]
    entries: list[Entry]
    after: dict[str, CustomerState]
    """The customers' states with these entries in them."""
    degraded: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """What the predictor said."""

    scores: NDArray[np.float32]  # [B]
    model_version: str
    decision_threshold: float
    history_length: int
    """N of the features that the model was trained on."""
    stages: Sequence[str] = ()
    """`full` or `cheap` (the cascade's first model) for each row, where the predictor tells."""


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a request that one model scored; `scored` holds them in the order of `rows`."""

    rows: Sequence[int]
    scored: Scored
    arm: str
    model_name: str


def prepare(
    requests: Transactions,
    pseudonyms: Sequence[str],
    response: Response | None,
    pending: Mapping[str, Sequence[Entry]],
    overlay: Overlay,
    history_length: int,
) -> Prepared:
    """Requests with the store's answer for their rows → model inputs; without an answer from defaults, and degraded."""
    if response is None:
        stored = [EMPTY_STATE] * len(requests)
        terminals = np.zeros((len(requests), len(TERMINAL_STATE_FIELDS)), np.int64)
    else:
        stored, terminals = customer_states(response), terminal_states(response)
    risks = terminal_risk(terminals).tolist()
    columns = (requests.transaction_id, requests.event_us, requests.amount_cents)
    ids, event_us, cents = (column.tolist() for column in columns)
    after: dict[str, CustomerState] = {}
    customers, entries = [], []
    for row, name in enumerate(pseudonyms):
        state = after[name] if name in after else overlay.fold(stored[row], pending.get(name, ()))
        customers.append(state)
        entry = Entry(ids[row], name, event_us[row], cents[row], risks[row])
        after[name] = overlay.fold(state, (entry,))
        if after[name] is not state:  # it was not in it already
            entries.append(entry)
    features, history = model_inputs(
        requests.transaction_id,
        requests.event_us,
        requests.amount_cents,
        customers,
        terminals,
        history_length=history_length,
        sequence_length=history_length,
    )
    return Prepared(features, history, customers, terminals, entries, after, degraded=response is None)


def require_length(scored: Scored, history_length: int) -> None:
    """Raise Unavailable when the model wants features over another number of transactions than they were made over."""
    if scored.history_length != history_length:
        raise Unavailable(
            f"MILLRACE_HISTORY_LENGTH of the transformer is {history_length}; model version {scored.model_version} "
            f"was trained with {scored.history_length}. Start the transformer with that."
        )


def require_rows(scored: Scored, rows: int) -> None:
    """Raise Unavailable when the predictor gave another number of scores than it got rows."""
    if scored.scores.shape != (rows,):
        raise Unavailable(f"the predictor gave scores of shape {list(scored.scores.shape)} for {rows} rows")


def flagged(scored: Scored) -> list[int]:
    """Places at or above the threshold."""
    return [place for place, score in enumerate(scored.scores.tolist()) if score >= scored.decision_threshold]


def decision(score: float, scored: Scored) -> str:
    return REVIEW if score >= scored.decision_threshold else APPROVE


def explain_inputs(
    requests: Transactions, prepared: Prepared, rows: Sequence[int], history_length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The variants of the rows that `reasons` compares, one block of K rows for each."""
    blocks = [
        variants(
            int(requests.transaction_id[row]),
            int(requests.event_us[row]),
            int(requests.amount_cents[row]),
            prepared.customers[row],
            prepared.terminals[row],
            history_length=history_length,
            sequence_length=history_length,
        )
        for row in rows
    ]
    return np.concatenate([block[0] for block in blocks]), np.concatenate([block[1] for block in blocks])


def explain(
    scores: Sequence[float], rows: Sequence[int], variant_scores: NDArray[np.float32]
) -> dict[int, list[dict[str, Any]]]:
    """Row → its reasons, from the rows' scores and those of `explain_inputs`."""
    blocks = variant_scores.reshape(len(rows), len(GROUPS))
    return {row: reasons(float(score), block) for row, score, block in zip(rows, scores, blocks, strict=True)}


def answers(
    requests: Transactions, parts: Sequence[Part], why: Mapping[int, list[dict[str, Any]]], degraded: bool
) -> list[dict[str, Any]]:
    """One answer per row, as V1 gives it."""
    ids = requests.transaction_id.tolist()
    rows: list[dict[str, Any]] = [{}] * len(ids)
    for part in parts:
        for row, score in zip(part.rows, part.scored.scores.tolist(), strict=True):
            rows[row] = {
                "transaction_id": ids[row],
                "score": score,
                "decision": decision(score, part.scored),
                "model_version": part.scored.model_version,
                "reasons": why.get(row, []),
                "degraded": degraded,
            }
    return rows


def requests_v2(request: V2Request, now_us: int) -> Transactions:
    """The tensors of a V2 request → Transactions."""
    return from_columns({name: tensor.tolist() for name, tensor in request.tensors.items()}, now_us)


def answer_v2(predictions: Sequence[Mapping[str, Any]]) -> V2Answer:
    """Answers as tensors of the same names; reasons as JSON text."""
    rows = [{**row, "reasons": orjson.dumps(row["reasons"]).decode()} for row in predictions]
    outputs = {spec.name: (spec.datatype, _tensor([row[spec.name] for row in rows], spec)) for spec in OUTPUTS}
    return V2Answer(outputs, predictions[0]["model_version"])


def scored_from(document: Mapping[str, Any]) -> Scored:
    """The predictor's V2 answer; raises Unavailable when it is not one."""
    try:
        outputs = {output["name"]: output["data"] for output in document["outputs"]}
        threshold = float(document["parameters"]["decision_threshold"])
        length = int(document["parameters"]["history_length"])
        scores = np.array(outputs["score"], np.float32)
        stages = tuple(str(stage) for stage in outputs.get("stage", ()))
        return Scored(scores, str(document["model_version"]), threshold, length, stages)
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"the predictor's answer is not a score: {error!r}") from error


def _tensor(values: list[Any], spec: TensorSpec) -> NDArray[Any]:
    dtypes: dict[str, Any] = {"INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_, "BYTES": object}
    return np.array(values, dtype=dtypes[spec.datatype])
