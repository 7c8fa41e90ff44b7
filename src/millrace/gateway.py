"""How the gateway of this machine is asked, which may speak TLS."""

from __future__ import annotations

import http.client
import ssl

from millrace.settings import settings


def tls() -> ssl.SSLContext | None:
    """Trusts the gateway's certificate, whatever names it has: it is asked by its address. None where there is none."""
    certificate = settings().tls_cert
    if certificate is None:
        return None
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    return context


def connection(port: int, *, timeout_s: float) -> http.client.HTTPConnection:
    """To the gateway."""
    context = tls()
    if context is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout_s, context=context)
