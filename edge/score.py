"""Score transactions with the model in this folder: `python score.py transactions.json|csv`, needs numpy, onnxruntime.

One JSON line per transaction: transaction_id, score, decision, source. Each transaction joins its customer's state,
kept in `journal.jsonl`, before the next one is scored. Every file is held against manifest.json before it is loaded.
With --endpoint URL an uncertain score is asked for there; while the endpoint is away, the own score counts.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import sys
import time
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True  # a stray file in this folder is refused
HERE = Path(__file__).resolve().parent
JOURNAL = "journal.jsonl"
TIRED_AFTER, REST_S = 3, 30.0
"""Failures in a row after which the endpoint is left alone, and for how long."""
DEFAULT_BAND = 0.1
"""Distance from the threshold that is uncertain, where neither the model nor the caller says."""


class Refused(Exception):
    """The folder or the input is not what it should be."""


def verified(folder):
    """The manifest, once every file has its hash and no other code lies beside it."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
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
    """Customers and terminals: what the package came with, and the transactions scored since, from the journal."""

    def __init__(self, path, journal, history_length):
        import numpy as np

        from edge.fraud import online

        self.online, self.history_length = online, history_length
        self.customers, self.terminals = {}, {}
        with np.load(path, allow_pickle=False) as stored:
            columns = [stored[f"customer_{name}"] for name in online.f.CUSTOMER_STATE_FIELDS]
            ends = stored["customer_end"].tolist()
            for name, start, end in zip(stored["customer_id"].tolist(), [0, *ends], ends, strict=False):
                self.customers[name] = online.CustomerState(*(column[start:end] for column in columns))
            self.terminals = dict(zip(stored["terminal_id"].tolist(), stored["terminal_state"], strict=True))
        self.unknown = np.zeros(len(online.f.TERMINAL_STATE_FIELDS), np.int64)
        self.journal = self._replayed(journal)

    def customer(self, name):
        return self.customers.get(name, self.online.EMPTY_STATE)

    def terminal(self, name):
        return self.terminals.get(name, self.unknown)

    def remember(self, name, entry):
        """Append [transaction_id, event_us, amount_cents, terminal_risk]; outlives this process when it returns."""
        before = self.customer(name)
        self._fold(name, entry)
        if self.customers[name] is not before:
            self.journal.write(json.dumps([name, *entry]) + "\n")
            self.journal.flush()

    def _fold(self, name, entry):
        self.customers[name] = self.customer(name).append(*entry, self.history_length)

    def _replayed(self, path):
        """The journal, read and open for more; a last line that was cut off is dropped."""
        journal = path.open("a+", encoding="utf-8")
        _lock(journal, path)
        journal.seek(0)
        text = journal.read()
        whole = text[: text.rfind("\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                name, *entry = json.loads(line)
                self._fold(name, entry)
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
    """A served model (V1 `:predict`), asked for one transaction at a time; None while it is away."""

    def __init__(self, url, timeout_s):
        self.url, self.timeout_s = url, timeout_s
        self.failures, self.silent_until = 0, 0.0

    def ask(self, row):
        if time.monotonic() < self.silent_until:
            return None
        headers = {"content-type": "application/json"}
        if token := os.environ.get("MILLRACE_GATEWAY_TOKEN"):
            headers["authorization"] = f"Bearer {token}"
        body = json.dumps({"instances": [row]}).encode()
        try:
            request = urllib.request.Request(self.url, body, headers)  # noqa: S310 - main wants http
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:  # noqa: S310
                found = json.load(answer)["predictions"][0]
            score, decision = float(found["score"]), str(found["decision"])
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

        self.manifest = manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(folder / self.manifest["graph"]), options, providers=["CPUExecutionProvider"]
        )
        self.threshold = self.manifest["decision_threshold"]
        self.state = State(folder / "state.npz", journal, self.manifest["history_length"])
        self.naming = naming

    def uncertain(self, score, band):
        """Whether to ask: by the band where one is given, else by what the student is sure of."""
        below = self.manifest.get("certain_below")
        if band is None and below is not None:
            return score >= below
        return abs(score - self.threshold) <= (DEFAULT_BAND if band is None else band)

    def answers(self, rows, endpoint=None, band=None):
        """One answer per row, in order; all rows are checked before the first is scored."""
        from edge.fraud.requests import from_rows

        checked = from_rows(rows, time.time_ns() // 1000)
        for place in range(len(checked)):
            score = self.score(checked, place)
            decision, source = ("review" if score >= self.threshold else "approve"), "edge"
            if (
                endpoint is not None
                and self.uncertain(score, band)
                and (found := endpoint.ask(rows[place])) is not None
            ):
                (score, decision), source = found, "endpoint"
            id_ = int(checked.transaction_id[place])
            yield {"transaction_id": id_, "score": score, "decision": decision, "source": source}

    def score(self, checked, place):
        """The model's score of one row, which then is in the state."""
        import numpy as np

        from edge.fraud.features import terminal_risk

        one = slice(place, place + 1)
        name, terminal = self.naming(checked.customer_id[place]), self.state.terminal(checked.terminal_id[place])[None]
        arrays = (checked.transaction_id[one], checked.event_us[one], checked.amount_cents[one])
        features, history = self.state.online.model_inputs(
            *arrays,
            [self.state.customer(name)],
            terminal,
            history_length=self.manifest["history_length"],
            sequence_length=self.manifest["sequence_length"],
        )
        score = float(self.session.run(["score"], {"features": features, "history": history})[0][0])
        if not np.isfinite(score):
            raise Refused(f"row {place}: the score is {score}; wanted finite features and history")
        self.state.remember(name, [*(int(array[0]) for array in arrays), float(terminal_risk(terminal)[0])])
        return score


def read_rows(path):
    """Objects with the fields of a request, from a JSON list ({"instances": …} too) or a CSV with a header."""
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as stream:
                return [_typed(row) for row in csv.DictReader(stream)]
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    rows = document.get("instances") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise Refused(f"{path} is not a JSON list of transactions, nor an object with 'instances'")
    return rows


def _typed(row):
    """A CSV row with numbers for numbers; what is none stays text and is refused by name later."""
    for name, kind in (("transaction_id", int), ("amount", float)):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            row[name] = kind(row[name])
    return {name: value for name, value in row.items() if value or name != "event_timestamp"}


def naming_of(options):
    """How a customer id of a request becomes the id of its state."""
    if options.pseudonyms:
        return str
    text = options.key.read_text() if options.key else os.environ.get("MILLRACE_PSEUDONYM_KEY", "")
    if not text.strip():
        raise Refused(
            "the states are kept under pseudonyms. Give the home's key: --key FILE (pseudonym.key) or "
            "MILLRACE_PSEUDONYM_KEY; or say --pseudonyms where the customer ids are pseudonyms already."
        )
    from edge.pseudonyms import pseudonym

    return lambda customer_id: pseudonym(customer_id, text.encode())


def main(argv=None):
    """Print answers; 1 for an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("transactions", type=Path, help="JSON or CSV with the fields of a request")
    parser.add_argument("--key", type=Path, help="file with the key of the customers' pseudonyms")
    parser.add_argument("--pseudonyms", action="store_true", help="customer ids are pseudonyms already")
    parser.add_argument("--journal", type=Path, default=HERE / JOURNAL, help="where scored transactions are remembered")
    parser.add_argument("--endpoint", help="https://host/v1/models/NAME:predict, asked for uncertain transactions")
    parser.add_argument("--band", type=float, help="uncertain: so near the threshold (default: what the model says)")
    parser.add_argument("--timeout-s", type=float, default=1.0, help="how long to wait for the endpoint (default 1)")
    options = parser.parse_args(argv)
    try:
        manifest = verified(HERE)
        sys.path.insert(0, str(HERE))
        if options.endpoint and not options.endpoint.startswith(("http://", "https://")):
            raise Refused(f"--endpoint is {options.endpoint!r}; wanted http://… or https://…")
        runner = Runner(HERE, manifest, options.journal, naming_of(options))
        endpoint = Endpoint(options.endpoint, options.timeout_s) if options.endpoint else None
        for answer in runner.answers(read_rows(options.transactions), endpoint, options.band):
            print(json.dumps(answer))
    except (Refused, OSError, ValueError) as error:
        print(f"score: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
