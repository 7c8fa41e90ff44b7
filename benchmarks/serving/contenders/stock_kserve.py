"""KServe's SDK as its documentation shows it, with its log lines silenced and ONNX Runtime as the model."""

import logging
import os

import numpy as np
import onnxruntime
from kserve import Model, ModelServer
from kserve.logging import configure_logging


class Stock(Model):
    def __init__(self, name):
        super().__init__(name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = os.environ["BENCH_GRAPH"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._length = int(os.environ["BENCH_LENGTH"])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):  # noqa: ARG002
        instances = payload["instances"]
        features = np.array([row["features"] for row in instances], np.float32)
        history = np.array([row["history"] for row in instances], np.float32)[:, -self._length :]
        return {"predictions": self._session.run(["score"], {"features": features, "history": history})[0].tolist()}


if __name__ == "__main__":
    configure_logging()
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    server = ModelServer(
        http_port=int(os.environ["BENCH_PORT"]), workers=1, enable_grpc=False, enable_latency_logging=False
    )
    server.start([Stock("model")])
