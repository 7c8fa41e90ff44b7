"""Tell the retraining trigger what monitoring found: a CloudEvent `io.millrace.outcome`, its id made of the finding.

Announcing the same finding twice sends the same id, which the trigger takes once. Decay that lasts is one alarm: each
day's event names the same `episode`, so that the trigger may act when it has cooled down; who reads alarms counts them.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, Final

from components.monitor.episodes import ENDED
from millrace.direct import open_directly
from millrace.errors import Unavailable
from millrace.lake.atomic import sha256_text
from millrace.lake.manifest import Manifest
from millrace.observe.progress import log

TYPE: Final = "io.millrace.outcome"
TIMEOUT_S: Final = 10.0


def event_of(report: Manifest) -> dict[str, Any]:
    """The CloudEvent of an outcome report."""
    facts = report.facts
    since = facts["alarm_day"] or facts["as_of"][:10]
    # Decay that lasts is an event each day: the trigger leaves alone what comes while it cools down.
    finding = [facts["model_name"], *facts["model_versions"], *facts["failed"], since, facts["as_of"][:10]]
    names = ("model_name", "retrain", "reason", "failed", "alarm_day", "as_of", "model_versions")
    data = {name: facts[name] for name in names} | {"episode": episode_of(report), "state": facts["episode"]}

    if facts["episode"] == ENDED and not facts["retrain"]:
        data["reason"] = f"no decay in the last reports of {', '.join(facts['model_versions'])}"

    return {
        "specversion": "1.0",
        "type": TYPE,
        "id": f"outcome-{sha256_text(*map(str, finding))[:16]}",
        "source": f"/millrace/{facts['model_name']}/monitoring",
        "subject": report.id,
        "time": facts["as_of"],
        "datacontenttype": "application/json",
        "data": data,
    }


def episode_of(report: Manifest) -> str:
    """The same for every report of an episode; empty where there is none."""
    facts = report.facts
    began = [f"{version} {episode['since']}" for version, episode in sorted(facts["episodes"].items())]
    return f"outcome-{sha256_text(facts['model_name'], *began)[:16]}" if began else ""


def announce(report: Manifest, url: str) -> str:
    """Send the event when the verdict failed or decay has ended; what came of it.

    Raises Unavailable: an alarm must not be lost.
    """
    if report.facts["passed"] and report.facts["episode"] != ENDED:
        return "nothing to announce: the verdict passed"

    event = event_of(report)
    if not url:
        return f"not sent: MILLRACE_RETRAINING_TRIGGER_URL is empty; failed: {', '.join(report.facts['failed'])}"

    body = json.dumps(event).encode()
    headers = {"content-type": "application/cloudevents+json"}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - from a setting
    try:
        with open_directly(request, TIMEOUT_S) as answer:
            said = answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        raise Unavailable(f"the trigger at {url} answered {error.code}: {error.read()[:300].decode()!r}") from error
    except OSError as error:
        raise Unavailable(f"the trigger at {url} cannot be reached: {error}. Start it, then run this again.") from error

    log("announced", id=event["id"], retrain=report.facts["retrain"], answer=said[:200])
    return said
