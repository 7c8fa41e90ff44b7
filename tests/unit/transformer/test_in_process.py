"""The model in the transformer's own process says what the predictor says."""

from __future__ import annotations

import argparse
import asyncio

import numpy as np
import pytest

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS
from millrace.errors import ConfigError, Unavailable
from serving.transformer.core import Choice
from serving.transformer.in_process import InProcess
from serving.transformer.server import require_predictor


def test_answers_come_from_the_model_in_the_folder(lab, options, tiny_model, monkeypatch):
    monkeypatch.setenv("MODEL_VERSION", "3")
    folder = tiny_model("in-process", sequence_length=2, history_length=lab.N)

    async def scenario():
        settings = options(predictor_topology="in_process")
        async with lab.serving(InProcess(folder, lab.NAME, settings), settings) as path:
            return await path.predict(lab.transaction(1, amount=100.0), lab.transaction(2, amount=400.0))

    small, large = asyncio.run(scenario()).document["predictions"]

    assert small["model_version"] == "3"
    assert small["score"] == pytest.approx(1 / (1 + np.exp(1.0)), rel=1e-5)  # conftest: sigmoid(amount / 100 - 2 + …)
    assert (small["decision"], large["decision"]) == ("approve", "review")
    assert large["reasons"][0]["input"] == "amount"


def test_what_the_model_refuses_is_unavailable_as_from_a_predictor(lab, options, tiny_model):
    folder = tiny_model("in-process", sequence_length=2, history_length=lab.N)
    features = np.full((1, len(FEATURE_NAMES)), np.nan, np.float32)

    history = np.zeros((1, lab.N, len(HISTORY_CHANNELS)), np.float32)

    with pytest.raises(Unavailable, match="gave no score"):
        asyncio.run(InProcess(folder, lab.NAME, options()).score(Choice([(features, history)])))


@pytest.mark.parametrize(("topology", "missing"), [("remote", "--predictor_host"), ("in_process", "--model_dir")])
def test_a_start_without_a_model_is_refused(options, topology, missing):
    nothing = argparse.Namespace(predictor_host=None, model_dir=None)

    with pytest.raises(ConfigError, match=missing):
        require_predictor(nothing, options(predictor_topology=topology))
