"""Which collector Envoy sends its spans to, by OpenTelemetry's own variables."""

from __future__ import annotations

import pytest

from serving.local.traces import Traces, traces

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_without_a_collector_there_are_none():
    assert traces({}) is None
    assert traces({BASE: "http://c:4318", "OTEL_SDK_DISABLED": "true"}) is None
    assert traces({BASE: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}) is None


def test_a_collector_gets_a_tenth_of_what_nobody_decided_about():
    found = traces({BASE: "http://c:4318/"})

    assert found == Traces("http://c:4318/v1/traces", 10.0, "millrace-gateway", ())
    assert (found.address, found.encrypted) == (("c", 4318), False)


def test_its_own_address_headers_and_name_win():
    found = traces(
        {
            BASE: "http://c:4318",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://traces.example/v1/t",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, x=y",
            "OTEL_SERVICE_NAME": "mine",
        }
    )

    assert (found.url, found.address, found.encrypted) == (
        "https://traces.example/v1/t",
        ("traces.example", 443),
        True,
    )
    assert (found.service, found.headers) == ("mine", (("api-key", "a b"), ("x", "y")))


@pytest.mark.parametrize(
    ("sampler", "argument", "percent"),
    [("always_on", "", 100), ("parentbased_always_off", "", 0), ("parentbased_traceidratio", "0.25", 25)],
)
def test_a_sampler_that_is_named_is_followed(sampler, argument, percent):
    named = {BASE: "http://c:4318", "OTEL_TRACES_SAMPLER": sampler}

    assert traces(named | ({"OTEL_TRACES_SAMPLER_ARG": argument} if argument else {})).percent == percent
