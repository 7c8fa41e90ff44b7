"""The floor: one ASGI function, orjson and ONNX Runtime, nothing checked. Its settings: see servers.py."""

import os

import numpy as np
import onnxruntime
import orjson
import uvicorn

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["BENCH_GRAPH"], options, providers=["CPUExecutionProvider"])
length = int(os.environ["BENCH_LENGTH"])
HEADERS = [(b"content-type", b"application/json")]


async def app(scope, receive, send):
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    if scope["method"] == "POST":
        instances = orjson.loads(body)["instances"]
        features = np.array([row["features"] for row in instances], np.float32)
        history = np.array([row["history"] for row in instances], np.float32)[:, -length:]
        scores = session.run(["score"], {"features": features, "history": history})[0]
        answer = orjson.dumps({"predictions": scores.tolist()})
    else:
        answer = b"{}"
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    port = int(os.environ["BENCH_PORT"])
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", lifespan="off", log_level="error")
