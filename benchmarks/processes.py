"""A server's process as a benchmark sees it: whether it answers, and what CPU time it has used."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from millrace.errors import Unavailable
from serving.calls import Calls


async def answering(port: int, path: str, within_s: float = 120.0) -> None:
    """Wait until a GET is answered with 200 on this machine; raises TimeoutError."""
    async with asyncio.timeout(within_s), Calls("127.0.0.1", port) as client:
        while True:
            try:
                if (await client.request("GET", path, timeout_s=2)).status == 200:
                    return
            except Unavailable:
                pass
            await asyncio.sleep(0.1)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used until now (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
