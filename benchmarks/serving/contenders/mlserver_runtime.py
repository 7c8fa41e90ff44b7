"""MLServer with a runtime of its own on ONNX Runtime; V2 is the only protocol it speaks. Metrics and logs are off."""

import asyncio
import os

import numpy as np
import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = os.environ["BENCH_GRAPH"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._length = int(os.environ["BENCH_LENGTH"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensors = {item.name: NumpyCodec.decode_input(item) for item in payload.inputs}
        history = np.ascontiguousarray(tensors["history"][:, -self._length :], np.float32)
        scores = self._session.run(["score"], {"features": tensors["features"].astype("f4"), "history": history})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores)])


async def main() -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=int(os.environ["BENCH_PORT"]),
        grpc_port=int(os.environ["BENCH_PORT"]) + 1,
        parallel_workers=0,
        metrics_endpoint=None,
        debug=False,
        use_structured_logging=False,
        logging_settings={"version": 1, "disable_existing_loggers": True},
    )
    await MLServer(settings).start([ModelSettings(name="model", implementation=Runtime)])


if __name__ == "__main__":
    asyncio.run(main())
