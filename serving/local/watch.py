"""Keeps a supervisor running: started by `up`, it starts the supervisor, and again when that is killed.

It knows nothing else and imports next to nothing, so that there is little that can end it. The runtime's lock is theirs
together: it is free when both are gone.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PAUSES_S = (0.0, 0.2, 1.0, 5.0)
"""Before the next start: further ones for a supervisor that ends soon after it was started."""
HEALTHY_S = 5.0
GIVEN_UP = 4
"""So often in a row it has ended soon by an error of its own: it will again."""
ENDED = (0, 3)
"""Exit statuses after which it is not started again: it was asked to stop, or cannot run."""


class Watch:
    """One supervisor after another, until one ends by itself."""

    def __init__(self, lock: Path, command: list[str]) -> None:
        self._command = command
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._lock = lock.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise

    def run(self) -> int:
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(name, self._pass_on)
        early = 0
        while True:
            began = time.monotonic()
            command = [*self._command, f"--lock={self._lock.fileno()}"]
            self._supervisor = subprocess.Popen(command, pass_fds=[self._lock.fileno()])
            self._write()
            if self._stopping:  # asked to end while it was being started
                self._supervisor.terminate()
            status = self._supervisor.wait()
            if status in ENDED or self._stopping:
                return status
            early = 0 if time.monotonic() - began > HEALTHY_S else early + 1
            if status > 0 and early == GIVEN_UP:
                return status
            print(f"the supervisor ended with status {status}; it is started again", file=sys.stderr, flush=True)
            time.sleep(PAUSES_S[min(early, len(PAUSES_S) - 1)])
            if self._stopping:
                return 0

    def _write(self) -> None:
        """Whose lock it is: the two process ids."""
        assert self._supervisor is not None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()} {self._supervisor.pid}")
        self._lock.flush()

    def _pass_on(self, number: int, _: object) -> None:
        self._stopping = self._stopping or number != signal.SIGHUP
        if self._supervisor is not None and self._supervisor.returncode is None:
            self._supervisor.send_signal(number)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--lock", type=Path, required=True)
    arguments.add_argument("--manifest", required=True)
    options = arguments.parse_args()
    options.lock.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "serving.local.supervisor", f"--manifest={options.manifest}"]
    try:
        raise SystemExit(Watch(options.lock, command).run())
    except BlockingIOError as error:
        raise SystemExit(f"a local runtime runs already (lock {options.lock})") from error


if __name__ == "__main__":
    main()
