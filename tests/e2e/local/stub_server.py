"""A server that starts at once, in the place of a predictor, a transformer or a program: it says which it is.

With --predictor_host it asks that first and answers with what it says. DELAY_S and BROKEN come from its environment.
"""

import argparse
import json
import os
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--host", required=True)
parser.add_argument("--http_port", type=int, required=True)
parser.add_argument("--predictor_host", default="")
options, _ = parser.parse_known_args()
received: list[dict] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/received":
            self.say(200, received)
        else:
            self.say(200 if "ready" in self.path or self.path == "/healthz" else 404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        time.sleep(float(os.environ.get("DELAY_S", "0")))
        received.append({"type": self.headers.get("ce-type"), "id": self.headers.get("ce-id"), "body": body.decode()})
        if options.predictor_host:
            host, _, port = options.predictor_host.partition(":")
            connection = HTTPConnection(host, int(port), timeout=10)
            connection.request("POST", self.path, body)
            answer = connection.getresponse()
            self.say(answer.status, json.loads(answer.read()) | {"neighbours": os.environ.get("NEIGHBOURS")})
            connection.close()
        else:
            self.say(200, {"version": os.environ.get("MODEL_VERSION")})

    def say(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


if os.environ.get("BROKEN"):
    raise SystemExit("broken on purpose")
ThreadingHTTPServer.request_queue_size = 200
ThreadingHTTPServer((options.host, options.http_port), Handler).serve_forever()
