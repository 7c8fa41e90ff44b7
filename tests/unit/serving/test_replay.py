"""The replay's report, when answers are missing."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from millrace.registry.model_artifact import ModelArtifact
from serving.local.offline import Day
from serving.local.replay import Answers, compare


def test_a_day_without_answers_is_unequal_and_its_report_is_json(tiny_model):
    artifact = ModelArtifact.open(tiny_model())
    spec = artifact.spec
    features = np.zeros((2, len(spec.feature_names)), np.float32)
    history = np.zeros((2, spec.sequence_length, len(spec.history_channels)), np.float32)
    silent = np.full(2, np.nan)

    report = compare(
        Day(np.array([1, 2]), np.array([5, 6]), ["a", "b"], [b"", b""], features, history),
        Answers({"score": silent}, silent),
        artifact,
        1.0,
        day="2018-05-10",
        feature_set="f",
    )

    assert (report.equal, report.unequal, report.p50_ms) == (False, 2, None)
    assert [example["served"] for example in report.examples] == [None, None]
    json.dumps(asdict(report), allow_nan=False)
    assert "p50 -, p99 -" in report.summary()
