"""How long one answer takes: CPU time of single rows through the served graph, in this thread, warm."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.lake.training_set import TrainingSet
from millrace.registry.model_artifact import ModelArtifact, load_graph

WARM_UP_CALLS: Final = 30


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one single-row call."""

    p50_ms: float
    p99_ms: float
    calls: int


def measure_latency(model: ModelArtifact, data: TrainingSet, rows: NDArray[np.int64], calls: int) -> Latency:
    """So many calls, on rows spread evenly over `rows`."""
    session = load_graph(model.manifest.path(str(model.spec.served_file)), threads=1)
    chosen = rows[np.linspace(0, len(rows) - 1, calls + WARM_UP_CALLS).astype(int)]
    tensors = [tensor for tensor in data.batch(chosen, model.spec.sequence_length) if tensor is not None]
    inputs = dict(zip(model.spec.inputs, tensors, strict=True))
    times = np.empty(len(chosen))
    for i in range(len(chosen)):
        start = time.thread_time()
        session.run(["score"], {name: tensor[i : i + 1] for name, tensor in inputs.items()})
        times[i] = time.thread_time() - start
    p50, p99 = np.quantile(1000 * times[WARM_UP_CALLS:], [0.5, 0.99])
    return Latency(float(p50), float(p99), calls)
