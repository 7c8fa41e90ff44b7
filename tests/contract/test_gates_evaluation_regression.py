"""For every rule of the evaluation gate of a quantity: a model that must be kept out, and is kept out by that rule."""

import copy
import dataclasses
import json
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import EntryPoint

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import assert_blocked_by, assert_every_rule_has_a_fault
from machines.features import FEATURE_NAMES, FEATURE_SERVICE
from onnx import TensorProto, helper, numpy_helper

from components.evaluate.config import load_limits, quantity_limits
from components.evaluate.core import evaluate
from components.evaluate.examination import GATE
from components.evaluate.quantity.baselines import fit_baselines
from components.evaluate.quantity.evidence import gather
from components.evaluate.quantity.rules import judge
from components.evaluate.window import ask_champion, model_predictions, open_measured
from components.gate.core import require, require_gain
from millrace import packaged
from millrace.errors import GateBlocked, InvalidInput
from millrace.judge.gates import Verdict
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.model_artifact import ModelArtifact

START = date(2021, 2, 1)
DAYS, PER_DAY, MACHINES = 10, 400, 40
TEST_START = START + timedelta(days=7)


# --- Graphs ---------------------------------------------------------------------------------------------------------


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def linear(weights, bias, below=-3.0, above=3.0, wrong=("heat", "Greater", 1e9, 0.0)):
    """score = features · w + b, and some hours more where one feature is `wrong`; low and high lie around it."""
    feature, comparison, limit, hours = wrong
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["dot"]),
        helper.make_node("Gather", ["features", "place"], ["one"], axis=1),
        helper.make_node(comparison, ["one", "limit"], ["is_wrong"]),
        helper.make_node("Cast", ["is_wrong"], ["wrong"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wrong", "hours"], ["more"]),
        helper.make_node("Sum", ["dot", "bias", "more"], ["flat"]),
    ]
    place = numpy_helper.from_array(np.array([FEATURE_NAMES.index(feature)], np.int64), "place")
    values = {"weights": np.reshape(weights, (-1, 1)), "bias": bias, "limit": limit, "hours": hours}
    return graph(nodes, [place, *(constant(name, value) for name, value in values.items())], below, above)


def slow(weights, bias, turns=500, width=1024):
    """The same after a long detour whose cost does not depend on the number of rows."""
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["dot"]),
        helper.make_node("ReduceMean", ["dot"], ["mean"], axes=[0, 1], keepdims=1),
        helper.make_node("Mul", ["mean", "row"], ["step_0"]),
        *(helper.make_node("MatMul", [f"step_{i}", "square"], [f"step_{i + 1}"]) for i in range(turns)),
        helper.make_node("ReduceMean", [f"step_{turns}"], ["end"], axes=[0, 1], keepdims=1),
        helper.make_node("Mul", ["end", "zero"], ["detour"]),
        helper.make_node("Sum", ["dot", "bias", "detour"], ["flat"]),
    ]
    values = {"weights": np.reshape(weights, (-1, 1)), "bias": bias, "zero": 0}
    values |= {"row": np.ones((1, width)), "square": np.eye(width) * 0.5}
    return graph(nodes, [constant(name, value) for name, value in values.items()], -3.0, 3.0)


def graph(nodes, initializers, below, above):
    """features → score, low, high, where the last node makes `flat` [B, 1]."""
    nodes = [
        *nodes,
        helper.make_node("Reshape", ["flat", "shape"], ["score"]),
        helper.make_node("Add", ["score", "below"], ["low"]),
        helper.make_node("Add", ["score", "above"], ["high"]),
    ]
    shape = numpy_helper.from_array(np.array([-1], np.int64), "shape")
    initializers = [*initializers, shape, constant("below", below), constant("above", above)]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", len(FEATURE_NAMES)])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B"]) for name in ("score", "low", "high")]
    model = helper.make_graph(nodes, "model", inputs, outputs, initializers)
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


# --- A small world --------------------------------------------------------------------------------------------------


class World:
    """Readings of ten days; models are written into its lake on request."""

    def __init__(self, lake):
        self.lake = lake
        self.training_set = self._training_set()
        self.window = open_measured(self.training_set)
        self.workload = self.window.data.workload
        self.limits = quantity_limits(load_limits(self.workload))
        self.baselines = fit_baselines(self.window.data, self.window.rows, self.limits)
        window = self.window
        self.masks = self.workload.judging.slices(window.judged_table, window.data.features[window.judged_rows])

    def _training_set(self):
        rng = np.random.default_rng(5)
        rows = DAYS * PER_DAY
        machine = rng.integers(0, MACHINES, rows)
        features = np.stack(
            [
                rng.gamma(2.0, 1.5, rows),
                rng.normal(10, 3, MACHINES)[machine],
                rng.random(rows) < 0.25,
            ],
            axis=1,
        ).astype(np.float32)
        hours = (features @ [4.0, 1.0, 5.0] + rng.normal(0, 2.2, rows)).astype(np.float32)
        day = np.arange(rows) // PER_DAY
        split = np.select([day < 5, day < 7], [0, 1], 2).astype(np.int8)
        hours[-5:] = np.nan  # not serviced yet
        begin = datetime.combine(START, datetime.min.time(), UTC)
        times = [begin + timedelta(days=int(d), seconds=i) for i, d in enumerate(day)]

        folder = self.lake / "training_sets" / "world"
        folder.mkdir(parents=True)
        event_us = np.array([int(t.timestamp() * 1e6) for t in times], np.int64)
        arrays = {"features": features, "label": hours, "split": split, "event_us": event_us}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        table = pa.table(
            {
                "reading_id": np.arange(rows),
                "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
                "machine": [f"machine {number:02}" for number in machine],
                "hours": hours.astype(np.float64),
                "label_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            }
        )
        pq.write_table(table, folder / "rows.parquet")
        splits = {
            name: {
                "first_day": str(START + timedelta(days=int(day[split == place].min()))),
                "last_day": str(START + timedelta(days=int(day[split == place].max()))),
                "rows": int((split == place).sum()),
            }
            for place, name in enumerate(("train", "validation", "test"))
        }
        facts = {"history_length": 0, "test_start": str(TEST_START), "splits": splits}
        facts["feature_service"] = FEATURE_SERVICE
        return Manifest(
            kind="training_set", id="world", workload="machines", uri=str(folder), files=hash_files(folder), facts=facts
        ).write()

    def fit(self):
        """Least squares on the training rows: weights and bias."""
        data = self.window.data
        rows = data.rows_of("train")
        x = np.c_[data.features[rows], np.ones(len(rows))]
        found = np.linalg.lstsq(x, data.label[rows], rcond=None)[0]
        return found[:-1], found[-1]

    def model(self, name, onnx_graph, outputs=("score", "low", "high")):
        folder = self.lake / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(onnx_graph, folder / "model.onnx")
        spec = {
            "name": "machine-hours",
            "workload": "machines",
            "task": "regression",
            "outputs": outputs,
            "feature_service": FEATURE_SERVICE,
            "feature_names": FEATURE_NAMES,
            "served_file": "model.onnx",
        }
        (folder / "model.json").write_text(json.dumps(spec))
        (folder / "training_curve.json").write_text(
            json.dumps([{"epoch": i, "loss": 1 / (i + 1), "mean_absolute_error": 2.0} for i in range(3)])
        )
        return Manifest(kind="model", id=name, workload="machines", uri=str(folder), files=hash_files(folder)).write()

    def verdict(self, model, champion=None, window=None, limits=None):
        """The gate's verdict on a model folder, without the pages and files of a whole evaluation."""
        window, artifact, limits = window or self.window, ModelArtifact.open(model.fetch()), limits or self.limits
        rival = ask_champion(champion, window, 1)
        own = model_predictions(artifact, window.data, window.judged_rows)
        masks = self.masks if window is self.window else {}
        return Verdict(GATE, judge(gather(window, own, artifact, self.baselines, rival, masks, limits), limits))


@pytest.fixture(scope="module")
def installed():
    """The workload of this test is installed, as far as the platform can tell."""
    with pytest.MonkeyPatch.context() as patch:
        entry = EntryPoint("machines", "machines", packaged.GROUP)
        usual = packaged.entry_points
        patch.setattr(packaged, "entry_points", lambda group: [*usual(group=group), entry])
        yield
    packaged._packaged.cache_clear()


@pytest.fixture(scope="module")
def world(installed, tmp_path_factory):
    return World(tmp_path_factory.mktemp("evaluation") / "lake")


@pytest.fixture(scope="module")
def good(world):
    return world.model("good", linear(*world.fit()))


@pytest.fixture(scope="module")
def verdict_on(world, good):
    """Verdicts on models that must be kept out, each judged once."""
    weights, bias = world.fit()
    models = {
        "knows nothing": lambda: world.model("constant", linear(np.zeros(3), 25.0)),
        "promises too much": lambda: world.model("late", linear(weights, bias + 5)),
        "is too sure": lambda: world.model("sure", linear(weights, bias, -0.2, 0.2)),
        "is sure of nothing": lambda: world.model("vague", linear(weights, bias, -100, 100)),
        "gives no interval": lambda: world.model("bare", linear(weights, bias), outputs=("score",)),
        "goes wrong when it is hot": lambda: world.model("hot", linear(weights, bias, wrong=("heat", "Greater", 3, 9))),
        "is lost without a load": lambda: world.model("load", linear(weights, bias, wrong=("load", "Less", 0.5, 60))),
        "is lost without a heat": lambda: world.model("heat", linear(weights, bias, wrong=("heat", "Less", 0.001, 60))),
        "is slow": lambda: world.model("slow", slow(weights, bias)),
    }
    made = {}

    def verdict(what):
        if what == "is judged on too few rows":
            return few_rows(world, good)
        if what == "knows machines as they were":
            strict = world.limits.model_copy(update={"stress_ceilings": {**world.limits.stress_ceilings, WEAR: 1.5}})
            return world.verdict(good, limits=strict)
        if what == "is told the truth by a feature":
            return told(world, good)
        if what == "loses more than others to wear":
            return world.verdict(good, limits=world.limits.model_copy(update={"max_stress_growth_over_xgboost": 0.5}))
        if what not in made:
            made[what] = world.verdict(models[what](), champion=good)
        return made[what]

    return verdict


def few_rows(world, good):
    """The test window with all but twenty rows taken out."""
    keep = np.arange(len(world.window.judged)) < 20
    counts = world.window.counts.copy()
    counts[np.flatnonzero(counts)[~keep]] = False
    window = dataclasses.replace(world.window, counts=counts, judged=world.window.judged.where(keep))
    return world.verdict(good, window=window)


def told(world, good):
    """The test window with the label in place of a feature."""
    data = copy.copy(world.window.data)
    data.features = np.array(data.features)
    data.features[:, FEATURE_NAMES.index("load")] = np.nan_to_num(data.label)
    return world.verdict(good, window=dataclasses.replace(world.window, data=data))


WEAR = "wearing_a_third_slower"

# Rule → a model that breaks it.
FAULTS = {
    "test_rows": "is judged on too few rows",
    "leaked_feature": "is told the truth by a feature",
    "mae": "knows nothing",
    "rmse": "knows nothing",
    "bias_share": "promises too much",
    "coverage_low": "is too sure",
    "coverage_high": "is sure of nothing",
    "interval_width_share": "is sure of nothing",
    "gain_over[constant]": "knows nothing",
    "gain_over[linear]": "knows nothing",
    "gain_over[machine_mean]": "knows nothing",
    "gain_over_xgboost": "knows nothing",
    "gain_over_champion": "knows nothing",
    "slice_mae_ratio[hot]": "goes wrong when it is hot",
    "slice_mae_ratio[old]": "knows nothing",
    "stress_growth[no_load]": "is lost without a load",
    "stress_growth[no_heat]": "is lost without a heat",
    "stress_growth[wearing_a_third_slower]": "knows machines as they were",
    "stress_growth_over_xgboost[no_load]": "is lost without a load",
    "stress_growth_over_xgboost[no_heat]": "is lost without a heat",
    "stress_growth_over_xgboost[wearing_a_third_slower]": "loses more than others to wear",
    "latency_p50_ms": "is slow",
    "latency_p99_ms": "is slow",
}


@pytest.mark.parametrize(("rule", "model"), FAULTS.items())
def test_the_evaluation_gate_keeps_out_a_model_that(rule, model, verdict_on):
    assert_blocked_by(verdict_on(model), rule)


def test_a_good_model_passes_and_every_rule_has_a_fault_above(world, good):
    assert_every_rule_has_a_fault(
        world.verdict(good, champion=good), FAULTS, each=("stress_growth", "stress_growth_over_xgboost", "gain_over")
    )


def test_a_model_without_intervals_is_kept_out(verdict_on):
    failed = {rule.name for rule in verdict_on("gives no interval").failures}

    assert failed == {"coverage_low", "coverage_high", "interval_width_share"}


def test_ceilings_in_the_label_s_unit_may_be_left_open(world, good):
    limits = world.limits.model_copy(update={"max_mae": None, "max_rmse": None})

    names = {rule.name for rule in world.verdict(good, limits=limits).rules}

    assert names.isdisjoint({"mae", "rmse"})
    assert {"bias_share", "gain_over[constant]"} <= names


def test_a_champion_that_cannot_be_asked_keeps_everyone_out(world, good):
    old = world.model("old", linear(*world.fit()))
    spec = json.loads((old.fetch() / "model.json").read_text()) | {"feature_service": "machine_hours_v0"}
    (old.fetch() / "model.json").write_text(json.dumps(spec))
    old = dataclasses.replace(old, files=hash_files(old.fetch())).write()

    failed = {rule.name: rule.detail for rule in world.verdict(good, champion=old).failures}

    assert failed.keys() == {"gain_over_champion"}
    assert "machine_hours_v0" in failed["gain_over_champion"]


@pytest.mark.parametrize(("kind", "family_of"), [("stress_ceilings", "stress_growth"), ("min_gain_over", "gain_over")])
def test_a_figure_without_a_limit_and_a_limit_without_a_figure_fail(kind, family_of, world, good):
    usual = dict(getattr(world.limits, kind))
    gone = next(iter(usual))
    del usual[gone]
    limits = world.limits.model_copy(update={kind: usual | {"earthquake": 0.1}})

    failed = {rule.name for rule in world.verdict(good, limits=limits).failures}

    assert failed == {f"{family_of}[{gone}]", f"{family_of}[earthquake]"}


def test_an_evaluation_is_whole_and_blocks_through_the_gate(world, good):
    worse = world.model("constant", linear(np.zeros(3), 25.0))
    passed = evaluate(good, world.training_set, worse, world.lake)
    blocked = evaluate(worse, world.training_set, good, world.lake)

    passed.verify()
    assert set(passed.files) == {"report.json", "report.html", "verdict.json", "scores.parquet", "model_card.md"}
    require([passed])
    assert require_gain(passed).passed
    with pytest.raises(GateBlocked, match="mae"):
        require([passed, blocked])
    with pytest.raises(GateBlocked, match="gain"):
        require_gain(blocked)
    scores = pq.read_table(passed.path("scores.parquet"))
    assert scores.column_names == ["reading_id", "score", "low", "high"]
    assert scores.num_rows == world.training_set.facts["splits"]["test"]["rows"]
    assert passed.facts["metrics"]["mae_low"] < passed.facts["metrics"]["mae"] < 2.5


def test_a_report_has_no_word_of_what_a_quantity_does_not_have(world, good):
    result = evaluate(good, world.training_set, None, world.lake)

    text = result.path("report.html").read_text().lower() + result.path("model_card.md").read_text().lower()
    for word in ("threshold", "capacity", "precision", "calibration", "positives", "attack", "review"):
        assert word not in text
    for word in ("stress tests", "coverage", "the machine's mean", "hours", "resampled machines"):
        assert word in text


def test_a_window_without_known_labels_is_refused(world, good):
    folder = world.lake / "training_sets" / "unlabelled"
    folder.mkdir()
    for name in world.training_set.files:
        (folder / name).write_bytes(world.training_set.path(name).read_bytes())
    label = np.load(folder / "label.npy")
    label[np.load(folder / "split.npy") == 2] = np.nan
    np.save(folder / "label.npy", label)
    unlabelled = dataclasses.replace(
        world.training_set, id="unlabelled", uri=str(folder), files=hash_files(folder)
    ).write()

    with pytest.raises(InvalidInput, match="no labelled test rows"):
        evaluate(good, unlabelled, None, world.lake)
