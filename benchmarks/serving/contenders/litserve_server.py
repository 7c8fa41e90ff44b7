"""LitServe: one API server, one inference worker, no batching (its batching waits on a timer)."""

import os

import litserve
import numpy as np
import onnxruntime


class Model(litserve.LitAPI):
    def setup(self, device):  # noqa: ARG002
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = os.environ["BENCH_GRAPH"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._length = int(os.environ["BENCH_LENGTH"])

    def decode_request(self, request):
        instances = request["instances"]
        features = np.array([row["features"] for row in instances], np.float32)
        return features, np.array([row["history"] for row in instances], np.float32)[:, -self._length :]

    def predict(self, x):
        return self._session.run(["score"], {"features": x[0], "history": x[1]})[0]

    def encode_response(self, output):
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Model(), accelerator="cpu", workers_per_device=1)
    port = int(os.environ["BENCH_PORT"])
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="critical", generate_client_file=False)
