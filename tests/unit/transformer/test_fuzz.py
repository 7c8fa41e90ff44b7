"""Whatever arrives, the path answers it or refuses it with a reason: never a 500, never a trace of what was refused."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.errors import InvalidInput
from millrace.installed import load
from millrace.requests import RequestFormat
from millrace.settings import Settings
from serving.protocol import decode_json, decode_v1
from serving.transformer.in_process import InProcess

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
near_ids = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
near_rows = st.fixed_dictionaries(
    {
        "transaction_id": near_ids,
        "customer_id": st.text(max_size=140) | st.integers() | st.floats(),
        "terminal_id": st.text(max_size=140) | st.integers(),
        "amount": st.floats(-1, 2e10) | st.integers(-1, 10**11) | st.floats(0, 1000).map(lambda x: round(x, 2)),
    },
    optional={"event_timestamp": st.datetimes().map(lambda x: x.isoformat() + "Z") | st.text(max_size=30) | st.none()},
)
printable = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, categories=["L", "N", "P"]), min_size=1, max_size=9
)
valid_rows = st.fixed_dictionaries(
    {
        "transaction_id": near_ids,
        "customer_id": printable | st.integers(0, 3),
        "terminal_id": printable,
        "amount": st.integers(0, 9_999_999_999) | st.integers(0, 10**6).map(lambda cents: cents / 100),
    },
    optional={
        "event_timestamp": st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31)).map(lambda x: x.isoformat() + "Z")
    },
)
mutated_rows = st.builds(
    lambda row, key, value: row | {key: value},
    near_rows,
    st.sampled_from(RequestFormat.of(load("fraud")).names),
    json_values,
)
documents = st.one_of(
    st.fixed_dictionaries({"instances": st.lists(valid_rows, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"instances": st.lists(near_rows | mutated_rows, max_size=4)}),
    st.fixed_dictionaries({"instances": json_values}),
    json_values,
)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
headers = st.dictionaries(
    st.sampled_from(["x_request_id", "ce_id", "traceparent", "tracestate", "x_deadline_ms", "x_millrace_keys"]),
    header_values,
    max_size=3,
)


@pytest.fixture(scope="module")
def model(tiny_model) -> Path:
    return tiny_model("fuzzed", sequence_length=2, history_length=4, every_input=True)


@pytest.fixture
def answered(lab, model) -> Iterator:
    """`answered(body, headers)`: one request to a transformer of its own loop, with the model in process."""
    with tempfile.TemporaryDirectory() as home, asyncio.Runner() as runner:
        options = Settings(home=Path(home), history_length=lab.N, pseudonym_key="key")
        serving = lab.serving(InProcess(model, lab.NAME, options), options)
        path = runner.run(serving.__aenter__())
        yield lambda body, named: (runner.run(path.post(body, **named)), path)
        runner.run(serving.__aexit__(None, None, None))


def encoded(document: object) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # an integer beyond 64 bits, a lone surrogate: sent as a client of another library would
        return repr(document).replace("'", '"').encode(errors="replace")


def test_no_document_makes_the_path_fail(answered):
    statuses = set()

    @settings(max_examples=400, deadline=None)
    @given(documents, headers)
    def check(document, named):
        reply, path = answered(encoded(document), named)
        statuses.add(reply.status)

        assert reply.status in (200, 400, 413, 504), reply.document
        assert reply.headers["x-request-id"].isprintable()
        if reply.status == 200:
            for row in reply.document["predictions"]:
                assert 0 <= row["score"] <= 1
                assert row["decision"] in ("review", "approve")
        else:
            assert reply.document["error"]
            assert len(path.model._turns) == 0

    check()
    assert {200, 400} <= statuses


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_request_are_refused_with_a_reason(body):
    with pytest.raises(InvalidInput, match=r"\w"):
        decode_v1(decode_json(body))
