"""What is counted of answered rows, so that a canary that always says the same is seen with few."""

from __future__ import annotations

import numpy as np
from prometheus_client import REGISTRY

from serving.transformer.core import Part, Scored
from serving.transformer.figures import Figures


def part(version: str, *scores: float) -> Part:
    scored = Scored({"score": np.float32(scores)}, version, decision_threshold=0.5)
    return Part(range(len(scores)), scored, "champion", "figures")


def counted(name: str, version: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"model_name": "figures", "model_version": version})


def test_scores_equal_to_the_one_before_of_their_version_are_counted():
    figures = Figures()

    for rows in (part("1", 0.1, 0.2), part("2", 0.2, 0.2), part("1", 0.2, 0.3, 0.2), part("2", 0.2)):
        figures.scored(rows, degraded=False)

    assert [counted("millrace_scores_repeated_total", version) for version in "12"] == [1, 2]


def test_a_versions_counters_are_there_before_they_count():
    Figures().scored(part("3", 0.1), degraded=False)

    names = ("millrace_model_faults_total", "millrace_scores_repeated_total")
    assert [counted(name, "3") for name in names] == [0, 0]
