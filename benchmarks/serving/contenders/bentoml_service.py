"""BentoML: one service, one worker. Started by `bentoml serve`, see servers.py."""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Model:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = os.environ["BENCH_GRAPH"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._length = int(os.environ["BENCH_LENGTH"])

    @bentoml.api
    def predict(self, instances: list) -> dict:
        features = np.array([row["features"] for row in instances], np.float32)
        history = np.array([row["history"] for row in instances], np.float32)[:, -self._length :]
        return {"predictions": self._session.run(["score"], {"features": features, "history": history})[0].tolist()}
