"""The drift report is one page that stands alone and says what was raised."""

from __future__ import annotations

import pytest

from benchmarks.drift import inflated
from millrace.errors import NotFound
from millrace.events.kinds import encode
from serving.drift_detector.backends import Streaming
from serving.drift_detector.events import Events
from serving.drift_detector.references import ModelStore
from serving.drift_detector.report import drift_report
from serving.drift_detector.service import DriftService
from serving.drift_detector.settings import DriftSettings


def test_the_page_shows_p_values_histograms_and_alarms(tmp_path, model_store, stream, prediction):
    models = ModelStore(model_store("1"), "fraud-detector", "fraud")
    service = DriftService(DriftSettings(period_s=0), tmp_path / "state", models, Streaming())
    service.restore()
    features = inflated(stream.features[stream.first : stream.first + 2_500], 1.3)
    batch = [prediction(stream.first + row, vector=values) for row, values in enumerate(features)]
    events = Events("fraud-detector", "fraud")
    service.take([row for event in batch for row in events.read(encode(event)) or ()])
    service.save()

    html = drift_report(tmp_path / "state" / "state.npz", models).html()

    assert "customer_amount_ratio" in html
    assert html.count("data:image/png") >= 7
    assert service.alarms[0]["reason"].split(" (")[0] in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_without_a_state_it_says_where_it_looked(tmp_path):
    with pytest.raises(NotFound, match=r"state\.npz"):
        drift_report(tmp_path / "state.npz", ModelStore(tmp_path, "fraud-detector", "fraud"))
