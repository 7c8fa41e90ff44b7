"""Score events with the model in this folder: `python score.py events.json|csv`, needs numpy, onnxruntime.

One JSON line per event: its id, the model's figures, a decision where the task has one, source. Each event joins its
entity's state, where the model reads recent events, and `journal.jsonl`, before the next one is scored. Every file is
held against manifest.json before it is loaded. With --endpoint URL an uncertain score is asked for there; while the
endpoint is away, the own score counts.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib
import json
import os
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

sys.dont_write_bytecode = True  # a stray file in this folder is refused
HERE = Path(__file__).resolve().parent
JOURNAL = "journal.jsonl"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TIRED_AFTER, REST_S = 3, 30.0
"""Failures in a row after which the endpoint is left alone, and for how long."""
DEFAULT_BAND = 0.1
"""Distance from the threshold that is uncertain, where neither the model nor the caller says."""


class Refused(Exception):
    """The folder or the input is not what it should be."""


def verified(folder):
    """The manifest, once every file has its hash and no other code lies beside it."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = manifest["files"]
    except (OSError, ValueError, KeyError) as error:
        raise Refused(
            f"{folder}/manifest.json cannot be read: {error!r}. Build the package again: make edge"
        ) from error
    for name, wanted in files.items():
        path = folder / name
        got = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if got != wanted:
            raise Refused(f"{path}: sha256 is {got}; manifest.json wants {wanted}. Build the package again: make edge")
    for path in (folder / "edge").rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            raise Refused(f"{path} is not in manifest.json. Remove it, or build the package again: make edge")
    return manifest


class State:
    """States by view and id: what the package came with, and the events scored since, from the journal."""

    def __init__(self, path, journal, views, history_length):
        import numpy as np

        from edge import inputs

        self.inputs, self.history_length = inputs, history_length
        self.recent, self.refreshed, self.unknown = {}, {}, {}
        with np.load(path, allow_pickle=False) as stored:
            for view in views:
                read = self._read_recent if view["recent"] else self._read_refreshed
                read(view, lambda name, view=view: stored[f"{view['name']}:{name}"])
        self.remembers = next((view for view in views if view["recent"]), None)
        self.views = views
        self.journal = self._replayed(journal) if self.remembers else None

    def _read_recent(self, view, column):
        columns = [column(name) for name in view["fields"]]
        ends = column("end").tolist()
        self.unknown[view["name"]] = self.inputs.recent(*(values[:0] for values in columns))
        self.recent[view["name"]] = {
            key: self.inputs.recent(*(values[start:end] for values in columns))
            for key, start, end in zip(column("key").tolist(), [0, *ends], ends, strict=False)
        }

    def _read_refreshed(self, view, column):
        states = column("state")
        self.unknown[view["name"]] = states[:1].sum(axis=0) * 0
        self.refreshed[view["name"]] = dict(zip(column("key").tolist(), states, strict=True))

    def of(self, keys):
        """Entity → its one id → the states of one event."""
        import numpy as np

        def found(held):
            ids = {view["name"]: keys[view["entity"]][0] for view in self.views if view["name"] in held}
            return {name: held[name].get(key, self.unknown[name]) for name, key in ids.items()}

        return self.inputs.States(
            {name: [state] for name, state in found(self.recent).items()},
            {name: np.array([state]) for name, state in found(self.refreshed).items()},
        )

    def remember(self, key, entry):
        """Append [event id, event_us, values] to an entity's state; outlives this process when it returns."""
        held = self.recent[self.remembers["name"]]
        before = held.get(key)
        self._fold(key, entry)
        if held[key] is not before:
            self.journal.write(json.dumps([key, *entry]) + "\n")
            self.journal.flush()

    def _fold(self, key, entry):
        name = self.remembers["name"]
        held = self.recent[name]
        held[key] = held.get(key, self.unknown[name]).append(*entry, self.history_length)

    def _replayed(self, path):
        """The journal, read and open for more; a last line that was cut off is dropped."""
        journal = path.open("a+", encoding="utf-8")
        _lock(journal, path)
        journal.seek(0)
        text = journal.read()
        whole = text[: text.rfind("\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                key, *entry = json.loads(line)
                self._fold(key, entry)
            except (ValueError, TypeError) as error:
                raise Refused(
                    f"{path}:{number} is not a journal entry: {error}. Remove the line or the file."
                ) from error
        if len(whole) < len(text):
            journal.truncate(len(whole.encode()))
        return journal


def _lock(stream, path):
    """One runner at a time on a journal, where the system has such locks."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Refused(f"another runner holds {path}. Wait for it, or give this one a --journal of its own.") from error


class Endpoint:
    """A served model (V1 `:predict`), asked for one event at a time; None while it is away."""

    def __init__(self, url, timeout_s, score):
        self.url, self.timeout_s, self.score = url, timeout_s, score
        self.failures, self.silent_until = 0, 0.0
        here = urllib.parse.urlsplit(url).hostname in LOOPBACK
        # A proxy that the environment names leads out of here, not to this machine.
        self.opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if here else []))

    def ask(self, row):
        if time.monotonic() < self.silent_until:
            return None
        headers = {"content-type": "application/json"}
        if token := os.environ.get("MILLRACE_GATEWAY_TOKEN"):
            headers["authorization"] = f"Bearer {token}"
        body = json.dumps({"instances": [row]}).encode()
        try:
            request = urllib.request.Request(self.url, body, headers)  # noqa: S310 - main wants http
            with self.opener.open(request, timeout=self.timeout_s) as answer:
                found = json.load(answer)["predictions"][0]
            score, decision = float(found[self.score]), str(found["decision"])
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            return self._failed(error)
        self.failures = 0
        return None if found.get("degraded") else (score, decision)

    def _failed(self, error):
        self.failures += 1
        print(f"score: the endpoint does not answer ({error}); the own score counts", file=sys.stderr)
        if self.failures >= TIRED_AFTER:
            self.failures, self.silent_until = 0, time.monotonic() + REST_S


class Runner:
    """Graph, states and threshold of one package."""

    def __init__(self, folder, manifest, journal, naming):
        import onnxruntime

        from edge.requests import RequestFormat

        self.manifest, self.naming = manifest, naming
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(folder / manifest["graph"]), options, providers=["CPUExecutionProvider"]
        )
        self.online = importlib.import_module(f"edge.{manifest['package']}.online")
        self.format = RequestFormat(
            manifest["event_id"],
            [SimpleNamespace(**entity) for entity in manifest["entities"]],
            [SimpleNamespace(**field) for field in manifest["fields"]],
        )
        self.threshold = manifest["decision_threshold"]
        self.state = State(folder / "state.npz", journal, manifest["views"], manifest["history_length"])

    def uncertain(self, score, band):
        """Whether to ask: by the band where one is given, else by what the student is sure of."""
        below = self.manifest.get("certain_below")
        if band is None and below is not None:
            return score >= below
        return abs(score - self.threshold) <= (DEFAULT_BAND if band is None else band)

    def answers(self, rows, endpoint=None, band=None):
        """One answer per row, in order; all rows are checked before the first is scored."""
        checked = self.format.from_rows(rows, time.time_ns() // 1000)
        names = self.manifest["answer"]
        for place in range(len(checked)):
            figures = self.figures(checked, place)
            answer = {names[name]: value for name, value in figures.items()}
            source = "edge"
            if self.threshold is not None:
                answer["decision"] = "review" if figures["score"] >= self.threshold else "approve"
                asked = endpoint is not None and self.uncertain(figures["score"], band)
                if asked and (found := endpoint.ask(rows[place])) is not None:
                    (answer[names["score"]], answer["decision"]), source = found, "endpoint"
            yield {self.manifest["event_id"]: checked.ids[place], **answer, "source": source}

    def figures(self, checked, place):
        """The model's figures for one row, which then is in the state."""
        import numpy as np

        one = checked.part(place, place + 1)
        keys = self.format.keys(one, self.naming)
        states = self.state.of(keys)
        features, history = self.online.model_inputs(
            one,
            states,
            history_length=self.manifest["history_length"],
            sequence_length=self.manifest["sequence_length"],
        )
        names = list(self.manifest["answer"])
        given = {"features": features} if history is None else {"features": features, "history": history}
        found = dict(zip(names, (float(values[0]) for values in self.session.run(names, given)), strict=True))
        if not np.isfinite(list(found.values())).all():
            raise Refused(f"row {place}: the model says {found}; wanted finite inputs")
        if self.state.remembers:
            (values,) = self.online.remembered(one, states)
            entry = [int(one.event_id[0]), int(one.event_us[0]), list(values)]
            self.state.remember(keys[self.state.remembers["entity"]][0], entry)
        return found


def read_rows(path, manifest):
    """Objects with the fields of a request, from a JSON list ({"instances": …} too) or a CSV with a header."""
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as stream:
                return [_typed(row, manifest) for row in csv.DictReader(stream)]
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    rows = document.get("instances") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise Refused(f"{path} is not a JSON list of events, nor an object with 'instances'")
    return rows


def _typed(row, manifest):
    """A CSV row with numbers for numbers; what is none stays text and is refused by name later."""
    numbers = [(field["name"], float) for field in manifest["fields"] if field["kind"] != "text"]
    for name, kind in ((manifest["event_id"], int), *numbers):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            row[name] = kind(row[name])
    optional = {"event_timestamp", *(field["name"] for field in manifest["fields"] if field["empty"])}
    return {name: value for name, value in row.items() if value not in ("", None) or name not in optional}


def naming_of(options, manifest):
    """How an id of a request becomes that of its state, for entities that are pseudonymised."""
    if options.pseudonyms or not any(entity["pseudonymised"] for entity in manifest["entities"]):
        return str
    text = options.key.read_text(encoding="utf-8") if options.key else os.environ.get("MILLRACE_PSEUDONYM_KEY", "")
    if not text.strip():
        raise Refused(
            "the states are kept under pseudonyms. Give the home's key: --key FILE (pseudonym.key) or "
            "MILLRACE_PSEUDONYM_KEY; or say --pseudonyms where the ids are pseudonyms already."
        )
    from edge.pseudonyms import pseudonym

    return lambda id_: pseudonym(id_, text.encode())


def main(argv=None):
    """Print answers; 1 for an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("events", type=Path, help="JSON or CSV with the fields of a request")
    parser.add_argument("--key", type=Path, help="file with the key of the pseudonyms")
    parser.add_argument("--pseudonyms", action="store_true", help="ids are pseudonyms already")
    parser.add_argument("--journal", type=Path, default=HERE / JOURNAL, help="where scored events are remembered")
    parser.add_argument("--endpoint", help="https://host/v1/models/NAME:predict, asked for uncertain events")
    parser.add_argument("--band", type=float, help="uncertain: so near the threshold (default: what the model says)")
    parser.add_argument("--timeout-s", type=float, default=1.0, help="how long to wait for the endpoint (default 1)")
    options = parser.parse_args(argv)
    try:
        manifest = verified(HERE)
        sys.path.insert(0, str(HERE))
        if options.endpoint and not options.endpoint.startswith(("http://", "https://")):
            raise Refused(f"--endpoint is {options.endpoint!r}; wanted http://… or https://…")
        if options.endpoint and manifest["decision_threshold"] is None:
            raise Refused("--endpoint is for uncertain decisions, and this model makes none. Leave it out.")
        runner = Runner(HERE, manifest, options.journal, naming_of(options, manifest))
        score = manifest["answer"]["score"]
        endpoint = Endpoint(options.endpoint, options.timeout_s, score) if options.endpoint else None
        for answer in runner.answers(read_rows(options.events, manifest), endpoint, options.band):
            print(json.dumps(answer))
    except (Refused, OSError, ValueError) as error:
        print(f"score: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
