"""The transformer's server: the request id in every answer, 504 past a deadline, and an orderly end."""

from __future__ import annotations

import dataclasses
from typing import Any

from millrace.observe.progress import REQUEST
from millrace.observe.tracing import CURRENT, OFF
from serving.lean import Handler, Headers, Reply, error_reply
from serving.server import HotServer
from serving.transformer.context import REQUEST_ID, DeadlineExceeded, request_id_of
from serving.transformer.model import Transformer


class TransformerServer(HotServer):
    """`HotServer` of a `Transformer`."""

    _model: Transformer

    async def _serve(self) -> None:
        try:
            await super()._serve()
        finally:
            await self._model.finished()

    def _routes(self) -> dict[str, Any]:
        return {path: identified(handler) for path, handler in super()._routes().items()}


def identified(handler: Handler) -> Handler:
    """The handler, with a request id that is made where the client gave none and said in every answer, errors too."""

    async def answer(body: bytes, headers: Headers) -> Reply:
        request_id = request_id_of(headers).encode()
        headers = {**headers, REQUEST_ID: request_id}
        REQUEST.set(headers)
        if (span := CURRENT.get()) is not OFF:
            span.set("millrace.request_id", request_id.decode())
        try:
            reply = await handler(body, headers)
        except DeadlineExceeded as error:
            reply = dataclasses.replace(error_reply(error), status=504, headers=())
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
            reply = error_reply(error)
        return dataclasses.replace(reply, headers=(*reply.headers, (REQUEST_ID, request_id)))

    return answer
