"""Ways to make the served model cheaper, on one model: size, latency, average precision with its interval.

`python -m benchmarks.variants [--home FOLDER] [--steps N]` after `make run` or `make backtest`, in the same home: takes
the newest model and its training set, prints a table and writes `<home>/bench/variants.json`. Fine-tuning reads
training rows, the choice validation rows; the test week is reported. AOTInductor is left out without a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.model import served_models
from benchmarks.variant_models import Exercise, parameter_count, pruned_by_magnitude, pruned_by_unit, small_network
from components.evaluate.window import CHUNK_ROWS, TestWindow, open_ranked
from components.optimise import export, measure
from components.optimise.boosted import Trees
from components.optimise.config import OptimiseConfig
from components.optimise.graphs import FLOAT, choose, measure_graphs, scorer_of
from components.optimise.rows import calibration_rows, validation_rows
from components.optimise.student import STUDENT, StudentConfig
from fraud.model import FraudModel
from millrace.judge.bootstrap import unit_weights
from millrace.judge.ranking import Judged
from millrace.lake.atomic import write_text
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.registry.model_spec import ModelSpec
from millrace.settings import settings
from millrace.tabular.boosting import BoostConfig, fit, sampled
from millrace.tabular.weights import load_network

BATCHES: Final = (1, 8, 64)
RESAMPLES: Final = 200
DYNAMIC: Final = "int8-dynamic.onnx"
PRODUCTS: Final = ["Gemm", "MatMul"]
WIDE: Final = ["TreeEnsembleRegressor", "TopK", "LayerNormalization", "Cast"]
"""Operators that stay in float32 in the fp16 graph: they have no other, or lose too much."""


def exercise(network: FraudModel, data: TrainingSet, teacher: Path) -> Exercise:
    """The rows that students learn from, with the served graph's scores."""
    config, scorer = StudentConfig(), scorer_of(teacher)
    rows = data.rows_of("train")
    rows = rows[data.label[rows] >= 0]
    rows = rows[sampled(data.label[rows], config.full)]
    length = network.sequence_length
    scores = [scorer(*data.batch(rows[at : at + 1024], length)) for at in range(0, len(rows), 1024)]
    target = (1 - config.label_share) * np.concatenate(scores) + config.label_share * data.label[rows]
    return Exercise(data, rows, target.astype(np.float32), length)


def write_graphs(model: Manifest, data: TrainingSet, folder: Path, steps: int) -> dict[str, dict[str, Any]]:
    """Every variant's graph in `folder`: file → its name and, where it differs, its number of parameters."""
    network, spec = load_network(model.fetch()), ModelSpec.read(model.fetch())
    weight = float(spec.optimisation["boosting"]["weight"])
    trace = data.batch(data.rows_of("validation")[:2], network.sequence_length)
    calibration = calibration_rows(data, network.sequence_length, OptimiseConfig().calibration_rows)
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, file: str, parameters: int | None = None) -> Path:
        found[file] = {"name": name, "parameters": parameters}
        return folder / file

    shutil.copyfile(model.path(FLOAT), add("float32", FLOAT, parameter_count(network)))
    flat = flattened(folder / FLOAT, folder / "flat.onnx")
    _half(flat, add("float16", "fp16.onnx"))
    dynamic(flat, add("int8, dynamic", DYNAMIC))
    export.quantise(flat, calibration, add("int8, static, Gemm only", "int8-gemm.onnx"))
    export.quantise(flat, calibration, add("int8, static, all products", "int8.onnx"), PRODUCTS)
    if STUDENT in model.files:
        nodes = next(item["parameters"] for item in spec.optimisation["variants"] if item["file"] == STUDENT)
        shutil.copyfile(model.path(STUDENT), add("student: trees, float32", STUDENT, nodes))
    if not steps:
        return found
    trees = Trees(fit(network, data, BoostConfig()), weight) if weight else None
    lessons = exercise(network, data, folder / FLOAT)
    makers: dict[str, tuple[str, Callable[[FraudModel, Exercise, int], torch.nn.Module], Trees | None]] = {
        "pruned: 80 % of weights, fine-tuned": ("pruned-weights.onnx", pruned_by_magnitude, trees),
        "pruned: half the hidden units, fine-tuned": ("pruned-units.onnx", pruned_by_unit, trees),
        "small network, float32": ("small.onnx", small_network, None),
    }
    for name, (file, make, beside) in makers.items():
        made = make(network, lessons, steps)
        export.export_class(made, trace, add(name, file, parameter_count(made)), beside)
        print("made", name, flush=True)
    export.quantise(folder / "small.onnx", calibration, add("small network, int8 static", "small.int8.onnx"))
    return found


def torch_latencies(
    model: Manifest, data: TrainingSet, folder: Path, repeats: int, compiling: bool = True
) -> tuple[dict[str, Any], str]:
    """Microseconds of the network alone in torch, eager and compiled; and why one is not there."""
    network = export.Served(load_network(model.fetch())).eval()
    rows = data.rows_of("validation")[:1024]
    features, history = data.batch(rows, load_network(model.fetch()).sequence_length)

    def runner(call: Callable[..., Any]) -> measure.Scorer:
        def score(f: np.ndarray, h: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                scores: np.ndarray = call(torch.from_numpy(f), torch.from_numpy(h)).numpy()
            return scores

        return score

    scorers, why = {"torch, eager (network alone)": runner(network)}, ""
    if not compiling:
        return measure.latency_us(scorers, (features, history), BATCHES, repeats), "AOTInductor left out: --no-compile"
    try:
        compiled = _compiled(network, features[:8], history[:8], folder / "network.pt2")
        scorers["torch, AOTInductor (network alone)"] = runner(compiled)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:  # no compiler, or not this network
        why = f"AOTInductor left out: {type(error).__name__}: {str(error).splitlines()[0][:160]}"
    return measure.latency_us(scorers, (features, history), BATCHES, repeats), why


def test_scores(folder: Path, file: str, week: TestWindow[Judged], length: int) -> np.ndarray:
    scorer, rows = scorer_of(folder / file), week.judged_rows
    parts = [scorer(*week.data.batch(rows[at : at + CHUNK_ROWS], length)) for at in range(0, len(rows), CHUNK_ROWS)]
    return np.concatenate(parts)


def table(home: Path, steps: int, repeats: int, compiling: bool) -> dict[str, Any]:
    """Everything that is measured, as written to JSON."""
    torch.set_num_threads(1)
    lake = home / "lake"
    *_, (model, rows) = served_models(lake)
    data, week = TrainingSet(rows), open_ranked(rows, lake)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = write_graphs(model, data, folder, steps)
        length = ModelSpec.read(model.fetch()).sequence_length
        config = OptimiseConfig(batches=BATCHES, repeats=repeats, resamples=RESAMPLES)
        variants, _ = measure_graphs(folder, list(names), validation_rows(data, length), config)
        plain = variants[FLOAT].average_precision or 0.0
        wider = OptimiseConfig(batches=BATCHES, ap_budget=0.01 * plain)
        # Ranges of dynamic int8 come from the batch at hand: a score would depend on its neighbours.
        steady = {file: variant for file, variant in variants.items() if file != DYNAMIC}
        chosen = {"served": choose(steady, config).file, "within 1 %": choose(steady, wider).file}
        weights = unit_weights(week.judged, RESAMPLES)
        found = []
        for file, named in names.items():
            scores = test_scores(folder, file, week, length)
            ap = measure.ranking_interval(week.judged, scores, weights)
            test = {"test_ap": ap.value, "test_interval": (ap.low, ap.high)}
            found.append(named | variants[file].to_dict() | test)
        latencies, why = torch_latencies(model, data, folder, repeats, compiling)
    return {"model": model.id, "variants": found, "torch": latencies, "left_out": why, "chosen": chosen, "steps": steps}


def show(result: dict[str, Any]) -> None:
    """The table, as docs/model.md has it."""
    shown = Table("variant", "parameters", "kB", *(f"µs at {b}" for b in BATCHES), "AP validation", "AP test", "chosen")
    for item in result["variants"]:
        aps = [f"{v:.4f} [{a:.3f}, {b:.3f}]" for v, (a, b) in (
            (item["average_precision"], item["interval"]), (item["test_ap"], item["test_interval"]))]  # fmt: skip
        times = [f"{item['latency_us'][batch]:,.0f}" for batch in BATCHES]
        why = ", ".join(name for name, file in result["chosen"].items() if file == item["file"])
        size = f"{item['size_bytes'] / 1000:,.0f}"
        shown.add_row(
            item["name"], f"{item['parameters'] or '':,}" if item["parameters"] else "", size, *times, *aps, why
        )
    for name, times in result["torch"].items():
        shown.add_row(name, "", "", *(f"{times[batch]:,.0f}" for batch in BATCHES), "", "", "")
    Console(width=200).print(shown)
    print(result["left_out"])


def flattened(graph: Path, path: Path) -> Path:
    """Weights of one member, [1, I, O], as [I, O]: what the quantiser takes for a layer."""
    proto = onnx.load(str(graph))
    constants = {item.name: item for item in proto.graph.initializer}
    for node in proto.graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and len(weight.dims) == 3 and weight.dims[0] == 1:
            del weight.dims[0]
    onnx.save(proto, str(path))
    return path


def _half(graph: Path, path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(graph)), keep_io_types=True, op_block_list=WIDE), str(path))


def dynamic(graph: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(
        str(prepared),
        str(path),
        op_types_to_quantize=PRODUCTS,
        nodes_to_exclude=export.stacked(prepared),
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def _compiled(network: torch.nn.Module, features: np.ndarray, history: np.ndarray, path: Path) -> Callable[..., Any]:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    rows = torch.export.Dim("rows", min=1, max=1024)
    inputs = (torch.from_numpy(features), torch.from_numpy(history))
    program = torch.export.export(network, inputs, dynamic_shapes=({0: rows}, {0: rows}))
    runner: Callable[..., Any] = aoti_load_package(aoti_compile_and_package(program, package_path=str(path)))
    return runner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=settings().home)
    parser.add_argument(
        "--steps", type=int, default=200, help="batches of 512 rows of fine-tuning (default 200; 0: none of that)"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave AOTInductor out")
    parser.add_argument("--repeats", type=int, default=100, help="timed calls per variant and batch size")
    arguments = parser.parse_args()
    result = table(arguments.home, arguments.steps, arguments.repeats, not arguments.no_compile)
    write_text(arguments.home / "bench" / "variants.json", json.dumps(result, indent=2) + "\n")
    show(result)


if __name__ == "__main__":
    main()
