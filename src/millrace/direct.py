"""HTTP to servers of this machine or this cluster: never through a proxy that the environment names.

A proxy for the world outside knows no loopback and no cluster address, and would get the token of a gateway.
`serving.calls` is the same for servers that call servers.
"""

from __future__ import annotations

import ssl
import urllib.request
from http.client import HTTPResponse
from typing import Final

_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_directly(
    request: urllib.request.Request | str, timeout_s: float, tls: ssl.SSLContext | None = None
) -> HTTPResponse:
    """The answer, to be closed; raises urllib.error.HTTPError for a status of 400 and above, OSError without one.

    `tls` says whose certificate is trusted, where that is not the system's matter.
    """
    opener = _OPENER
    if tls is not None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
    answer: HTTPResponse = opener.open(request, timeout=timeout_s)
    return answer
