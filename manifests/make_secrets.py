"""The secrets that the manifests refer to, with random values: `python manifests/make_secrets.py | kubectl apply -f -`.

Prints to a pipe only: nothing is written, and nothing is shown on a screen. Secrets that the cluster has are not to
be made again: PostgreSQL keeps the passwords that it began with.
"""

from __future__ import annotations

import re
import secrets
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent / "platform" / "secrets.example"
BY_HAND = ("millrace-s3",)
"""Its values come from whoever owns the bucket."""


def rendered() -> str:
    """Every example with its placeholders filled; equal placeholders get equal values."""
    values: dict[str, str] = {}
    texts = [
        path.read_text(encoding="utf-8") for path in sorted(EXAMPLE.glob("millrace-*.yaml")) if path.stem not in BY_HAND
    ]
    fill = re.compile(r"<([a-z0-9-]+)>")
    return "---\n".join(
        fill.sub(lambda found: values.setdefault(found[1], secrets.token_hex(24)), text) for text in texts
    )


if __name__ == "__main__":
    if sys.stdout.isatty():
        sys.exit(
            "make_secrets: refusing to show secrets. Pipe them: python manifests/make_secrets.py | kubectl apply -f -"
        )
    print(rendered())
