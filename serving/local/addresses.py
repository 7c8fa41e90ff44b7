"""Where services find each other on this machine: cluster DNS names in, loopback addresses out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from serving.local.manifest import LOOPBACK

HOST: Final = re.compile(
    r"(?P<scheme>https?://)(?P<name>[a-z0-9-]+)(?P<domain>(?:\.[a-z0-9-]+){0,2}\.svc(?:\.cluster\.local)?|\.[a-z0-9-]+)?"
    r"(?::\d+)?(?=[/,\s]|$)"
)
CLUSTER: Final = re.compile(r"https?://(?!localhost)([a-z0-9-]+|[a-z0-9.-]+\.svc(\.cluster\.local)?)(:\d+)?(/|$)")
"""A host that only a cluster's DNS knows: a bare name, or one that ends with svc."""


def rewritten(value: str, ports: Mapping[str, int]) -> str:
    """`value` with `http://NAME.NAMESPACE.svc…` pointed at NAME's local port.

    In a comma-separated list of URLs, one that only a cluster could resolve is left out.
    """
    if "://" not in value:
        return value
    kept = []
    for item in value.split(","):
        here = HOST.sub(lambda found: _local(found, ports), item)
        if CLUSTER.match(here.strip()):
            continue
        kept.append(here)
    return ",".join(kept)


def _local(found: re.Match[str], ports: Mapping[str, int]) -> str:
    port = ports.get(found["name"])
    return found[0] if port is None else f"http://{LOOPBACK}:{port}"
