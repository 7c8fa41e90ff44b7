"""Envoy as the local runtime sets it: calls over gRPC."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from envoy_plane import MIB, routed, running
from grpc import StatusCode
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from serving.rollout.samples import observed, parsed


class Revision(grpc.GenericRpcHandler):
    """Answers a call with its own name, after the request's bytes; `fails` with a status."""

    def __init__(self, name: str) -> None:
        self.name, self.fails = name, None
        self.metadata: dict[str, Any] = {}
        self.server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 9 * MIB)])
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, handler_call_details):
        self.metadata = dict(handler_call_details.invocation_metadata)

        def answer(request: bytes, context) -> bytes:
            if self.fails is not None:
                context.abort(self.fails, "the revision says why")
            return request + self.name.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


def call(port: int, name: str, *metadata: tuple[str, Any], size: int = 1) -> bytes | tuple[StatusCode, str]:
    request = pb.ModelInferRequest(model_name=name, id="7" * size).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            return infer(request, metadata=metadata, timeout=10)[len(request) :]
        except grpc.RpcError as error:
            return error.code(), error.details()


def test_a_grpc_call_goes_to_the_model_that_it_names_on_either_port(tmp_path):
    m, other = Revision("m"), Revision("other")
    services = (routed("m", 1, grpc_ports=(m.port,)), routed("other-model", 1, grpc_ports=(other.port,)))
    with running(tmp_path, *services) as plane:
        ports = plane.port, plane.data_plane.entrance.grpc_port
        answers = {(port, name): call(port, name) for port in ports for name in ("m", "other-model", "", "absent")}
        long = call(ports[1], "other-model", size=3 * MIB)
        call(ports[1], "m", ("ce-id", "17"), ("x-bin", b"\xff\0"))
        too_long = call(ports[1], "m", size=9 * MIB)
    for server in (m, other):
        server.server.stop(0)

    assert answers == {
        (port, name): answer
        for port in ports
        for name, answer in (("m", b"m"), ("other-model", b"other"), ("", b"m"), ("absent", b"m"))
    }
    assert long == b"other"
    assert (m.metadata["ce-id"], m.metadata["x-bin"]) == ("17", b"\xff\0")
    assert "8388608" in too_long[1]


def test_a_grpc_error_is_the_servers_own_and_counts_as_http_would_say_it(tmp_path):
    server = Revision("m")
    entrance = {"authorization": "Bearer secret"}
    with running(tmp_path, routed("m", 1, grpc_ports=(server.port,)), **entrance) as plane:
        port = plane.data_plane.entrance.grpc_port
        token = ("authorization", "Bearer secret")
        refused = call(port, "m")
        answered = call(port, "m", token)
        errors = []
        for status in (StatusCode.INVALID_ARGUMENT, StatusCode.INTERNAL):
            server.fails = status
            errors.append(call(port, "m", token))
        seen = observed(parsed(plane.metrics()), "m-predictor-00001", "1", decides=True)
        server.server.stop(0).wait()
        away = call(port, "m", token)
        text = plane.metrics()

    assert refused[0] is StatusCode.UNAUTHENTICATED
    assert answered == b"m"
    assert "authorization" not in server.metadata
    assert errors == [
        (status, "the revision says why") for status in (StatusCode.INVALID_ARGUMENT, StatusCode.INTERNAL)
    ]
    assert (seen.requests, seen.errors) == (3, 1)
    assert away[0] is StatusCode.UNAVAILABLE
    assert 'response_code_class="4xx"} 1' in text
