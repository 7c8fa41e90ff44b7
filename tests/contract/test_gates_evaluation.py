"""For every rule of the evaluation gate: a model that must be kept out, and is kept out by that rule."""

import copy
import dataclasses
import json
from datetime import date, timedelta

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from faults import assert_blocked_by, assert_every_rule_has_a_fault
from onnx import TensorProto, helper, numpy_helper

import fraud
from components.assemble.core import assemble, split_of
from components.build_features.core import build_features
from components.evaluate.classes.baselines import fit_baselines
from components.evaluate.classes.evidence import gather
from components.evaluate.classes.rules import judge
from components.evaluate.classes.words import Words
from components.evaluate.config import ClassLimits, load_limits
from components.evaluate.core import evaluate
from components.evaluate.window import ask_champion, model_scores, open_ranked
from components.gate.core import require
from fraud.features import FEATURE_NAMES, FEATURE_SERVICE, HISTORY_CHANNELS
from fraud.simulator import SimulationConfig, simulate
from millrace.errors import GateBlocked, InvalidInput
from millrace.installed import load
from millrace.instants import start_of
from millrace.judge.explained import explain, require_known
from millrace.judge.gates import Verdict, family
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.model_artifact import ModelArtifact

FRAUD = load("fraud")
START = date(2018, 4, 1)
DAYS = 48
LENGTH = 4
K = 20
SMALL = {
    "resamples": 40,
    "stress_rows": 3000,
    "latency_calls": 20,
    "min_test_positives": 50,
    "min_slice_positives": 20,
    "baseline_grid": [{"n_estimators": 40, "max_depth": 3, "learning_rate": 0.2}],
    # The model that passes below is a logistic regression with one more rule: no match for boosted trees.
    "min_gain_over_logistic_regression": -0.02,
    "max_loss_to_xgboost": 0.15,
    "max_calibration_error": 0.05,
    "min_brier_skill": 0.3,
    "min_threshold_precision": 0.1,
    "min_average_precision": 0.4,
    "stress_floors": {"no_state": 0.02},
    "attack_ceilings": {"as_it_was": 0.7, "split_in_four": 0.9, "split_over_four_days": 0.9, "waits_a_month": 0.8},
}


# --- Graphs ---------------------------------------------------------------------------------------------------------


def column(name):
    """Node that takes one feature as [B, 1]."""
    index = numpy_helper.from_array(np.array([FEATURE_NAMES.index(name)], np.int64), f"index_{name}")
    return helper.make_node("Gather", ["features", index.name], [name], axis=1), index


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def graph(nodes, initializers):
    """features, history → score, where the last node makes `flat` [B, 1]."""
    nodes = [*nodes, helper.make_node("Reshape", ["flat", "shape"], ["score"])]
    initializers = [*initializers, numpy_helper.from_array(np.array([-1], np.int64), "shape")]
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", len(FEATURE_NAMES)]),
        helper.make_tensor_value_info("history", TensorProto.FLOAT, ["B", LENGTH, len(HISTORY_CHANNELS)]),
    ]
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B"])]
    model = helper.make_graph(nodes, "model", inputs, outputs, initializers)
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def linear(weights, bias, extra=0.0, reversed_=False):
    """sigmoid(w · sign(x) log(1 + |x|) + b + extra · (amount > 220)), or one minus that."""
    take, index = column("amount")
    nodes = [
        helper.make_node("Sign", ["features"], ["sign"]),
        helper.make_node("Abs", ["features"], ["size"]),
        helper.make_node("Add", ["size", "one"], ["size_1"]),
        helper.make_node("Log", ["size_1"], ["log"]),
        helper.make_node("Mul", ["sign", "log"], ["squashed"]),
        helper.make_node("MatMul", ["squashed", "weights"], ["dot"]),
        helper.make_node("Add", ["dot", "bias"], ["plain"]),
        take,
        helper.make_node("Greater", ["amount", "limit"], ["large"]),
        helper.make_node("Cast", ["large"], ["large_1"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["large_1", "extra"], ["bonus"]),
        helper.make_node("Add", ["plain", "bonus"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["p"]),
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Identity", ["q" if reversed_ else "p"], ["flat"]),
    ]
    values = {"weights": weights[:, None], "bias": bias, "one": 1, "limit": 220, "extra": extra}
    return graph(nodes, [index, *(constant(name, value) for name, value in values.items())])


def memorised(feature, values):
    """High for exactly the given values of one feature: a model that has learned the test by heart."""
    take, index = column(feature)
    nodes = [
        take,
        helper.make_node("Sub", [feature, "known"], ["gap"]),
        helper.make_node("Abs", ["gap"], ["distance"]),
        helper.make_node("ReduceMin", ["distance"], ["nearest"], axes=[1], keepdims=1),
        helper.make_node("Less", ["nearest", "tiny"], ["hit"]),
        helper.make_node("Cast", ["hit"], ["hit_1"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["hit_1", "high"], ["flat"]),
    ]
    known = constant("known", np.asarray(values)[None, :])
    return graph(nodes, [index, known, constant("tiny", 1e-6), constant("high", 0.9)])


def only(feature, scale):
    """score = feature / scale, cut at one."""
    take, index = column(feature)
    nodes = [
        take,
        helper.make_node("Mul", [feature, "factor"], ["raw"]),
        helper.make_node("Clip", ["raw", "zero", "one"], ["flat"]),
    ]
    return graph(nodes, [index, constant("factor", 1 / scale), constant("zero", 0), constant("one", 1)])


def always(value):
    take, index = column("amount")
    nodes = [
        take,
        helper.make_node("Mul", ["amount", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "value"], ["flat"]),
    ]
    return graph(nodes, [index, constant("zero", 0), constant("value", value)])


def slow(turns=500, width=1024):
    """Half a score for everything, after a long detour whose cost does not depend on the number of rows."""
    take, index = column("amount")
    nodes = [
        take,
        helper.make_node("ReduceMean", ["amount"], ["mean"], axes=[0, 1], keepdims=1),
        helper.make_node("Mul", ["mean", "row"], ["step_0"]),
        *(helper.make_node("MatMul", [f"step_{i}", "square"], [f"step_{i + 1}"]) for i in range(turns)),
        helper.make_node("ReduceMean", [f"step_{turns}"], ["end"], axes=[0, 1], keepdims=1),
        helper.make_node("Mul", ["end", "zero"], ["detour"]),
        helper.make_node("Mul", ["amount", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "detour"], ["zeros"]),
        helper.make_node("Add", ["zeros", "half"], ["flat"]),
    ]
    square = constant("square", np.eye(width) * 0.5)
    return graph(
        nodes, [index, square, constant("row", np.ones((1, width))), constant("zero", 0), constant("half", 0.5)]
    )


# --- A small world --------------------------------------------------------------------------------------------------


class World:
    """Simulated rows, features and a training set; models are written into its lake on request."""

    def __init__(self, lake):
        self.lake = lake
        self.training_set = self._training_set()
        self.week = open_ranked(self.training_set, lake)
        self.config = load_limits(FRAUD, SMALL, profile="simulated")
        self.baselines = fit_baselines(self.week.data, self.week.rows, self.config)
        week = self.week
        self.masks = FRAUD.judging.slices(week.judged_table, week.data.features[week.judged_rows])

    def _training_set(self):
        folder = self.lake / "snapshots" / "world"
        folder.mkdir(parents=True)
        days = {}
        for number, table in enumerate(simulate(SimulationConfig(customers=400, terminals=800, radius=10, days=DAYS))):
            day = str(START + timedelta(days=number))
            pq.write_table(table, folder / f"{day}.parquet")
            days[day] = f"{day}.parquet"
        facts = {"tables": {"events": days}, "first_day": min(days), "last_day": max(days), "rows": 0}
        snapshot = Manifest(kind="snapshot", id="world", workload="fraud", uri=str(folder), facts=facts).write()
        features = build_features(snapshot, self.lake, history_length=8)
        return assemble(features, self.lake, split_of(features, train_days=18))

    def model(self, name, onnx_graph, threshold=0.1):
        folder = self.lake / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(onnx_graph, folder / "model.onnx")
        spec = {
            "name": "fraud-detector",
            "workload": "fraud",
            "task": "ranking",
            "feature_service": FEATURE_SERVICE,
            "feature_names": FEATURE_NAMES,
            "history_channels": HISTORY_CHANNELS,
            "history_length": 8,
            "sequence_length": LENGTH,
            "decision_threshold": threshold,
            "served_file": "model.onnx",
        }
        (folder / "model.json").write_text(json.dumps(spec))
        curve = [{"epoch": i, "loss": 1 / (i + 1), "average_precision": 0.5, "samples_per_s": 9.0} for i in range(3)]
        (folder / "training_curve.json").write_text(json.dumps(curve))
        return Manifest(kind="model", id=name, workload="fraud", uri=str(folder), files=hash_files(folder)).write()

    def good(self, shuffled=False, extra=4.0, **changes):
        """Logistic regression on logarithms, as the baseline, and sure about large amounts."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        data = self.week.data
        rows = data.rows_of("train")
        x = np.sign(data.features[rows]) * np.log1p(np.abs(data.features[rows]))
        scaler = StandardScaler().fit(x)
        label = np.random.default_rng(1).permutation(data.label[rows]) if shuffled else data.label[rows]
        fit = LogisticRegression(max_iter=300).fit(scaler.transform(x), label)
        weights = fit.coef_[0] / scaler.scale_
        return linear(weights, fit.intercept_[0] - weights @ scaler.mean_, extra=extra, **changes)

    def values_of_frauds(self, feature):
        rows = self.week.judged_rows[self.week.judged.label]
        return self.week.data.features[rows][:, FEATURE_NAMES.index(feature)]

    def verdict(self, model, champion=None, week=None, config=None, masks=None):
        """The gate's verdict on a model folder, without the pages and files of a whole evaluation."""
        week, artifact = week or self.week, ModelArtifact.open(model.fetch())
        rival = ask_champion(champion, week, 1)
        scores = model_scores(artifact, week.data, week.judged_rows)
        masks = self.masks if masks is None else masks
        evidence = gather(week, scores, artifact, self.baselines, rival, masks, config or self.config, K)
        return Verdict("evaluation", judge(evidence, config or self.config, Words.of(FRAUD, K)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("evaluation") / "lake")


@pytest.fixture(scope="module")
def good(world):
    return world.model("good", world.good())


@pytest.fixture(scope="module")
def verdict_on(world, good):
    """Verdicts on models that must be kept out, each judged once."""
    models = {
        "knows nothing": lambda: world.model("constant", always(0.5)),
        "is wrong about everything": lambda: world.model("reversed", world.good(reversed_=True)),
        "has a threshold nobody reaches": lambda: world.model("silent", world.good(), threshold=1.01),
        "looks at the terminal only": lambda: world.model("terminal", only("terminal_risk_30d", 1)),
        "looks at the customer only": lambda: world.model("customer", only("customer_amount_ratio", 20)),
        "has learned amounts by heart": lambda: world.model(
            "amounts", memorised("amount", world.values_of_frauds("amount"))
        ),
        "has learned times by heart": lambda: world.model(
            "times", memorised("customer_days_since_last", world.values_of_frauds("customer_days_since_last"))
        ),
        "looks for large amounts only": lambda: world.model(
            "large", linear(np.zeros(len(FEATURE_NAMES)), -3.0, extra=5.0)
        ),
        "is slow": lambda: world.model("slow", slow()),
        "learned from shuffled labels": lambda: world.model("shuffled", world.good(shuffled=True, extra=0.0)),
    }
    made = {}

    def verdict(what, config=None):
        if what == "is judged on too few frauds":
            return few_frauds(world, good, config)
        if what == "is told the truth by a feature":
            return told(world, good, config)
        if (what, config) not in made:
            made[what, config] = world.verdict(models[what](), champion=good, config=LIMITS_OF[config](world))
        return made[what, config]

    return verdict


ANY = load_limits(
    FRAUD,
    {
        "resamples": 40,
        "stress_rows": 3000,
        "latency_calls": 20,
        "min_slice_positives": 20,
        "max_review_share": None,
        "baseline_grid": SMALL["baseline_grid"],
        # The model that passes is a logistic regression with one more rule: no match for boosted trees.
        "min_share_of_xgboost": 0.7,
        "max_slice_auc_loss": 0.1,
    },
)
"""Limits of any data, without the simulator's profile."""
STRICT = ANY.model_copy(update={"max_stress_loss": 0.0, "max_attack_loss": 0.0})
LIMITS_OF = {None: lambda world: world.config, "any": lambda _: ANY, "strict": lambda _: STRICT}


def told(world, good, config=None):
    """The test week with the label in place of a feature."""
    data = copy.copy(world.week.data)
    data.features = np.array(data.features)
    data.features[:, FEATURE_NAMES.index("is_weekend")] = data.label == 1
    week = dataclasses.replace(world.week, data=data)
    return world.verdict(good, week=week, config=LIMITS_OF[config](world))


def few_frauds(world, good, config=None):
    """The test week with all but ten frauds taken out."""
    week, keep = world.week, ~world.week.judged.label
    keep[np.flatnonzero(week.judged.label)[:10]] = True
    counts = week.counts.copy()
    counts[np.flatnonzero(counts)[~keep]] = False
    week = dataclasses.replace(week, counts=counts, judged=week.judged.where(keep))
    return world.verdict(good, week=week, masks={}, config=LIMITS_OF[config](world))


# Rule → a model that breaks it.
FAULTS = {
    "test_positives": "is judged on too few frauds",
    "auc_roc": "knows nothing",
    "average_precision": "knows nothing",
    "unit_precision": "is wrong about everything",
    "unit_precision_share": "is wrong about everything",
    "calibration_error": "knows nothing",
    "brier_skill": "knows nothing",
    "cost_ratio": "is wrong about everything",
    "threshold_precision": "knows nothing",
    "threshold_recall": "has a threshold nobody reaches",
    "flagged_units_ratio": "knows nothing",
    "gain_over_logistic_regression": "knows nothing",
    "gain_over_xgboost": "knows nothing",
    "gain_over_champion": "knows nothing",
    "unit_precision_gain_over_champion": "is wrong about everything",
    "slice_auc_roc[weekend]": "knows nothing",
    "slice_auc_roc[scenario_2]": "looks at the customer only",
    "stress_kept[no_customer_state]": "looks at the customer only",
    "stress_kept[no_terminal_state]": "looks at the terminal only",
    "stress_kept[no_state]": "looks at the terminal only",
    "stress_kept[amounts_up_10_percent]": "has learned amounts by heart",
    "stress_kept[amounts_up_30_percent]": "has learned amounts by heart",
    "stress_kept[customer_state_a_day_old]": "has learned times by heart",
    "stress_kept[amounts_just_below_220]": "looks for large amounts only",
    "stress_kept[amounts_jittered_1_percent]": "has learned amounts by heart",
    "attack_passed[as_it_was]": "has a threshold nobody reaches",
    "attack_passed[split_in_four]": "looks for large amounts only",
    "attack_passed[split_over_four_days]": "looks for large amounts only",
    "attack_passed[waits_a_week]": "has learned times by heart",
    "attack_passed[waits_a_month]": "has learned times by heart",
    "latency_p50_ms": "is slow",
    "latency_p99_ms": "is slow",
}


@pytest.mark.parametrize(("rule", "model"), FAULTS.items())
def test_the_evaluation_gate_keeps_out_a_model_that(rule, model, verdict_on):
    assert_blocked_by(verdict_on(model), rule)


def test_a_good_model_passes_and_every_rule_has_a_fault_above(world, good):
    assert_every_rule_has_a_fault(world.verdict(good, champion=good), FAULTS, each=("stress_kept", "attack_passed"))


# Rule of any data → a model that breaks it; and the limits, where usual ones are wider than this small world's noise.
ANY_FAULTS = {
    "test_positives": ("is judged on too few frauds", "any"),
    "leaked_feature": ("is told the truth by a feature", "any"),
    "auc_roc_low": ("learned from shuffled labels", "any"),
    "average_precision_lift": ("knows nothing", "any"),
    "calibration_error_ratio": ("knows nothing", "any"),
    "brier_skill_high": ("knows nothing", "any"),
    "unit_precision_lift": ("is wrong about everything", "any"),
    "threshold_lift": ("knows nothing", "any"),
    "flagged_units_ratio": ("knows nothing", "any"),
    "share_of[logistic_regression]": ("looks at the customer only", "any"),
    "share_of[xgboost]": ("looks at the customer only", "any"),
    "gain_over_champion": ("knows nothing", "any"),
    "unit_precision_gain_over_champion": ("is wrong about everything", "any"),
    "slice_auc_loss[weekend]": ("is wrong about everything", "any"),
    "stress_loss[no_customer_state]": ("looks at the customer only", "any"),
    "stress_loss[no_terminal_state]": ("looks at the terminal only", "strict"),
    "stress_loss[no_state]": ("looks at the terminal only", "strict"),
    "stress_loss[amounts_up_10_percent]": ("has learned amounts by heart", "any"),
    "stress_loss[amounts_up_30_percent]": ("has learned amounts by heart", "any"),
    "stress_loss[customer_state_a_day_old]": ("has learned times by heart", "any"),
    "stress_loss[amounts_just_below_220]": ("looks for large amounts only", "strict"),
    "stress_loss[amounts_jittered_1_percent]": ("has learned amounts by heart", "any"),
    "attack_loss[split_in_four]": ("looks for large amounts only", "strict"),
    "attack_loss[split_over_four_days]": ("looks for large amounts only", "strict"),
    "attack_loss[waits_a_week]": ("has learned times by heart", "any"),
    "attack_loss[waits_a_month]": ("has learned times by heart", "any"),
    "latency_p50_ms": ("is slow", "any"),
    "latency_p99_ms": ("is slow", "any"),
}


@pytest.mark.parametrize(("rule", "model"), ANY_FAULTS.items())
def test_the_gate_of_any_data_keeps_out_a_model_that(rule, model, verdict_on):
    assert_blocked_by(verdict_on(*model), rule)


def test_a_good_model_passes_the_gate_of_any_data_and_every_rule_is_explained_and_has_a_fault(world, good):
    verdict = world.verdict(good, champion=good, config=ANY)

    assert_every_rule_has_a_fault(verdict, ANY_FAULTS, each=("stress_loss", "attack_loss"))
    assert all(explain("evaluation", rule.name) for rule in verdict.rules)
    require_known(FRAUD, {rule.name: "a trial" for rule in verdict.rules})


def test_the_simulator_s_verdict_has_no_rule_of_any_data(world, good):
    names = {family(rule.name) for rule in world.verdict(good, champion=good).rules}

    assert names == {family(name) for name in FAULTS}
    assert names.isdisjoint({"leaked_feature", "auc_roc_low", "stress_loss", "attack_loss", "share_of"})


def test_a_failure_that_is_accepted_lets_through_and_is_shown(world, good):
    strict = load_limits(FRAUD, SMALL | {"min_average_precision": 0.999}, profile="simulated")
    accept = {"average_precision": "a trial of a week"}

    result = evaluate(good, world.training_set, None, world.lake, strict, accept=accept, review_capacity=K)

    require([result])
    verdict = Verdict.read(result.path("verdict.json"))
    assert [rule.name for rule in verdict.accepted] == ["average_precision"]
    assert "a trial of a week" in result.path("report.html").read_text(encoding="utf-8")


def test_a_champion_that_cannot_be_scored_keeps_everyone_out(world, good):
    old = world.model("old", world.good())
    spec = json.loads((old.fetch() / "model.json").read_text()) | {"feature_service": "fraud_detection_v0"}
    (old.fetch() / "model.json").write_text(json.dumps(spec))
    old = dataclasses.replace(old, files=hash_files(old.fetch())).write()

    verdict = world.verdict(good, champion=old)

    failed = {rule.name: rule.detail for rule in verdict.failures}
    assert failed.keys() == {"gain_over_champion", "unit_precision_gain_over_champion"}
    assert "fraud_detection_v0" in failed["gain_over_champion"]


def test_a_stress_without_a_floor_and_a_floor_without_a_stress_fail(world, good):
    floors = dict(world.config.stress_floors)
    del floors["no_state"]
    config = world.config.model_copy(update={"stress_floors": floors | {"earthquake": 0.1}})

    verdict = world.verdict(good, config=config)

    assert {rule.name for rule in verdict.failures} == {"stress_kept[no_state]", "stress_kept[earthquake]"}


def test_an_attack_without_a_ceiling_and_a_ceiling_without_an_attack_fail(world, good):
    ceilings = dict(world.config.attack_ceilings)
    del ceilings["waits_a_week"]
    config = world.config.model_copy(update={"attack_ceilings": ceilings | {"bribes_the_analyst": 0.9}})

    verdict = world.verdict(good, config=config)

    failed = {rule.name for rule in verdict.failures}
    assert failed == {"attack_passed[waits_a_week]", "attack_passed[bribes_the_analyst]"}


def test_an_evaluation_is_whole_is_made_once_and_blocks_through_the_gate(world, good):
    passed = evaluate(good, world.training_set, None, world.lake, world.config, review_capacity=K)
    again = evaluate(good, world.training_set, None, world.lake, world.config, review_capacity=K)
    strict = load_limits(FRAUD, SMALL | {"min_average_precision": 0.999}, profile="simulated")
    blocked = evaluate(good, world.training_set, None, world.lake, strict, review_capacity=K)

    assert again == passed
    passed.verify()
    assert set(passed.files) == {"report.json", "report.html", "verdict.json", "scores.parquet", "model_card.md"}
    assert passed.parents == {"model": "good", "training_set": world.training_set.id}
    assert passed.facts["passed"]
    require([passed])
    assert not blocked.facts["passed"]
    with pytest.raises(GateBlocked, match=r"average_precision: 0\.\d+ \(wanted >= 0.999\)"):
        require([passed, blocked])


def test_an_evaluation_scores_every_test_row_and_thins_its_curve(world, good):
    result = evaluate(good, world.training_set, None, world.lake, world.config, review_capacity=K)

    scores = pq.read_table(result.path("scores.parquet"))
    assert scores.num_rows == world.training_set.facts["splits"]["test"]["rows"]
    document = json.loads(result.path("report.json").read_text())
    assert 2 <= len(document["roc"]["threshold"]) <= 200
    assert sum(map(sum, document["at_threshold"]["confusion"])) == document["protocol"]["rows"] < scores.num_rows
    html = result.path("report.html").read_text()
    assert "http" not in html.replace("http://www.w3.org", "")
    assert "Stress tests" in html


def test_a_week_without_known_labels_is_refused(world, good):
    features = Manifest.read(world.lake / "feature_sets" / world.training_set.parents["feature_set"])
    spec = split_of(features, train_days=18)
    too_early = dataclasses.replace(spec, labels_until=start_of(spec.test_start))
    unlabelled = assemble(features, world.lake, too_early)

    with pytest.raises(InvalidInput, match="no labelled test rows"):
        evaluate(good, unlabelled, None, world.lake, world.config)


def test_the_face_hands_kfp_its_metrics_curve_matrix_and_page(world, good, tmp_path, monkeypatch):
    from kfp import dsl

    from components.evaluate.component import evaluate as face

    monkeypatch.setenv("MILLRACE_HOME", str(world.lake.parent))
    monkeypatch.setenv("MILLRACE_REVIEW_CAPACITY", str(K))
    kinds = {"evaluation": dsl.Dataset, "metrics": dsl.Metrics, "classification": dsl.ClassificationMetrics}
    out = {name: kind(uri=str(tmp_path / name)) for name, kind in {**kinds, "report": dsl.HTML}.items()}
    inputs = {"model": dsl.Model(uri=str(tmp_path / "model")), "training_set": dsl.Dataset(uri=str(tmp_path / "set"))}
    good.write(tmp_path / "model")
    world.training_set.write(tmp_path / "set")

    face.python_func(**inputs, **out, champion="good", overrides=SMALL, profile="simulated")

    assert Manifest.read(tmp_path / "evaluation", "evaluation").id == out["evaluation"].metadata["id"]
    assert out["evaluation"].metadata["passed"] is True
    assert 0.4 < out["metrics"].metadata["average_precision"] < 1
    assert len(out["classification"].metadata["confidenceMetrics"]) <= 200
    assert len(out["classification"].metadata["confusionMatrix"]["rows"]) == 2
    assert (tmp_path / "report").read_text().startswith("<!doctype html>")


def test_classes_of_which_neither_is_rare_are_judged_without_reviews(world, good, monkeypatch):
    monkeypatch.setattr(fraud, "TASK", "classification")
    shared = {name: value for name, value in world.config.model_dump().items() if name in ClassLimits.model_fields}
    result = evaluate(good, world.training_set, world.model("no rival", always(0.5)), world.lake, ClassLimits(**shared))

    verdict = Verdict.read(result.path("verdict.json"))
    reviewed = {"unit_precision", "unit_precision_share", "cost_ratio", "attack_passed", "flagged_units_ratio"}
    reviewed |= {"threshold_precision", "threshold_recall", "unit_precision_gain_over_champion"}
    verdict.require()
    assert {family(rule.name) for rule in verdict.rules} == {family(name) for name in FAULTS} - reviewed
    assert "decision_threshold" not in result.facts
    text = result.path("report.html").read_text().lower() + result.path("model_card.md").read_text().lower()
    for word in ("capacity", "threshold", "card precision", "attack", "unit_precision", "recall is"):
        assert word not in text
