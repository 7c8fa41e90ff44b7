"""The door of a workload: the tensors of its requests and answers, and answers made from scores; no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from millrace.inputs import Requests
from millrace.installed import Workload
from millrace.requests import TEXTS, RequestFormat
from millrace.workload import Task
from serving.protocol import V2Answer, V2Request
from serving.tensors import TensorSpec
from serving.transformer.core import Part, decision


class Door:
    """What a workload's requests and answers look like, in V1 rows and V2 tensors."""

    def __init__(self, workload: Workload, *, strict: bool = False) -> None:
        self.workload = workload
        self.format = RequestFormat.of(workload, strict=strict)
        self.kept = tuple(field for field in self.format.fields if field.name in workload.watch.FIELDS)
        """What prediction events say of a request."""
        self._event_id, self._figures = workload.schema.EVENT_ID, tuple(workload.exchange.ANSWER.items())
        self._decides = workload.task is Task.RANKING
        self.inputs = tuple(self._input(name) for name in self.format.names)
        self.outputs = tuple(self._outputs())

    def read(self, request: V2Request, now_us: int) -> Requests:
        """The tensors of a V2 request → Requests."""
        return self.format.from_columns({name: tensor.tolist() for name, tensor in request.tensors.items()}, now_us)

    def answers(
        self,
        requests: Requests,
        parts: Sequence[Part],
        why: Mapping[int, list[dict[str, Any]]],
        degraded: bool,
        unseen: Sequence[Sequence[str]] = (),
    ) -> list[dict[str, Any]]:
        """One answer per row, as V1 gives it; `unseen` is said of rows that have such entities alone."""
        ids = requests.ids
        rows: list[dict[str, Any]] = [{}] * len(ids)
        for part in parts:
            scored = part.scored
            figures = {shown: scored.outputs[name].tolist() for name, shown in self._figures}
            scores = scored.scores.tolist()
            for place, row in enumerate(part.rows):
                answer = {self._event_id: ids[row]}
                for shown, values in figures.items():
                    answer[shown] = values[place]
                if self._decides:
                    answer["decision"] = decision(scores[place], scored)
                answer["model_version"] = scored.model_version
                answer["reasons"] = why.get(row, [])
                answer["degraded"] = degraded
                if unseen and unseen[row]:
                    answer["unseen"] = list(unseen[row])
                rows[row] = answer
        return rows

    def tensors(self, predictions: Sequence[Mapping[str, Any]]) -> V2Answer:
        """Answers as tensors of the same names; lists as JSON text."""
        rows = [
            {
                **row,
                "reasons": orjson.dumps(row["reasons"]).decode(),
                "unseen": orjson.dumps(row.get("unseen", [])).decode(),
            }
            for row in predictions
        ]
        outputs = {
            spec.name: _tensor([row[spec.name] for row in rows], spec, texts=spec.name == self._event_id)
            for spec in self.outputs
        }
        return V2Answer(outputs, predictions[0]["model_version"])

    def _input(self, name: str) -> TensorSpec:
        numbers = {field.name for field in self.format.fields if field.kind not in (*TEXTS, "instant")}
        datatype = "INT64" if name == self._event_id else "FP64" if name in numbers else "BYTES"
        also = "BYTES" if name == self._event_id else ""
        return TensorSpec(name, datatype, (-1,), name in self.format.optional, also)

    def _outputs(self) -> Iterator[TensorSpec]:
        yield TensorSpec(self._event_id, "INT64", (-1,))
        for _, shown in self._figures:
            yield TensorSpec(shown, "FP32", (-1,))
        if self._decides:
            yield TensorSpec("decision", "BYTES", (-1,))
        yield TensorSpec("model_version", "BYTES", (-1,))
        yield TensorSpec("reasons", "BYTES", (-1,))  # a JSON list in each row
        yield TensorSpec("degraded", "BOOL", (-1,))
        yield TensorSpec("unseen", "BYTES", (-1,))  # a JSON list in each row


def _tensor(values: list[Any], spec: TensorSpec, *, texts: bool) -> tuple[str, NDArray[Any]]:
    """Datatype and values; ids that came as text go as text."""
    dtypes: dict[str, Any] = {"INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_, "BYTES": object}
    if texts and any(isinstance(value, str) for value in values):
        return "BYTES", np.array([str(value) for value in values], dtype=object)
    return spec.datatype, np.array(values, dtype=dtypes[spec.datatype])
