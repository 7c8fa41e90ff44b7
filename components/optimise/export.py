"""Torch module in, ONNX graphs out: float32, and int8 with weights quantised per channel.

The graph takes raw `features[B, F]`, and `history[B, L, C]` where the network reads one, and answers `score[B]`, of a
quantity `low[B]` and `high[B]` too: scaling is in the module, the sigmoid is added here. Which exporter and which int8,
and why: docs/adr/0006-one-graph-measured.md.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.optimise.boosted import Trees
from components.optimise.interval import Interval
from components.optimise.tree_graph import OPSET, append_trees, finish_quantity
from millrace.tabular.network import Network
from millrace.tabular.rows import Inputs

INPUT_NAMES: Final = ("features", "history")
"""A network without a history has the first alone."""
QUANTISED: Final = ("Gemm",)
"""The large layers. The rest loses more on the way in and out of eight bits than it gains."""


class Served(nn.Module):
    """What is served of a class: the network, and the sigmoid that makes its logit a score."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.sigmoid(self.network(*inputs))


class Parts(nn.Module):
    """What trees are added to: the network's answer, and the columns that they read."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(*inputs), self.network.columns(*inputs)


class Columns(nn.Module):
    """The columns alone, without the network that reads them."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network.columns(*inputs)


def export_class(network: Network, traced: Inputs, path: Path, trees: Trees | None = None) -> None:
    """Write the graph to `path`, with `trees` beside the network; rows are only traced, their number stays free."""
    if trees:
        _export(Parts(network), traced, ["logit", "columns"], path)
        append_trees(path, trees)
    else:
        _export(Served(network), traced, ["score"], path)


def export_quantity(network: Network, traced: Inputs, path: Path, trees: Trees | None, interval: Interval) -> None:
    """The same of a quantity: score, low and high end, the interval calibrated."""
    if trees:
        _export(Parts(network), traced, ["answer", "columns"], path)
    else:
        _export(network, traced, ["answer"], path)
    finish_quantity(path, trees, interval)


def export_columns(network: Network, traced: Inputs, path: Path) -> None:
    """Write the graph that makes `columns` of the inputs: what trees alone are appended to."""
    _export(Columns(network), traced, ["columns"], path)


def named(inputs: Inputs) -> dict[str, NDArray[np.float32]]:
    """A network's inputs by the names that every graph has for them."""
    return dict(zip(INPUT_NAMES, inputs, strict=False))


def _export(module: nn.Module, traced: Inputs, outputs: list[str], path: Path) -> None:
    names = list(named(traced))
    with _quiet_exporter():
        torch.onnx.export(
            module.eval(),
            tuple(map(torch.tensor, traced)),
            str(path),
            input_names=names,
            output_names=outputs,
            opset_version=OPSET,
            dynamic_axes={name: {0: "batch"} for name in names + outputs},
            dynamo=False,
        )


def quantise(graph: Path, calibration: Inputs, path: Path, operators: Sequence[str] = QUANTISED) -> None:
    """Write `graph` to `path` with int8 layers, the range of their inputs taken from the given rows.

    Ranges are fixed here, never taken from the batch at hand: that would make a score depend on its neighbours.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch, _quiet_root_logger():
        prepared = Path(scratch) / graph.name
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            _OneBatch(named(calibration)),
            quant_format=QuantFormat.QOperator,
            op_types_to_quantize=list(operators),
            nodes_to_exclude=stacked(prepared),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def stacked(graph: Path) -> list[str]:
    """Products with a matrix for each column or member at once: ONNX Runtime has no int8 kernel for them."""
    import onnx

    proto = onnx.load(str(graph)).graph
    dims = {item.name: item.dims for item in proto.initializer}
    return [node.name for node in proto.node if node.op_type == "MatMul" and len(dims.get(node.input[1], ())) > 2]


class _OneBatch:
    """All calibration rows at once, in the shape the quantiser asks for."""

    def __init__(self, batch: dict[str, NDArray[np.float32]]) -> None:
        self._batches = iter([batch])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        raise NotImplementedError(f"one batch only; asked for {start_index} to {end_index}")


@torch.inference_mode()
def torch_scores(network: Network, inputs: Inputs, trees: Trees | None = None) -> NDArray[np.float32]:
    """What the graph of a class must reproduce: scores[B] of the torch module, and of the trees beside it."""
    logit, columns = Parts(network).eval()(*map(torch.tensor, inputs))
    if trees:
        margins = torch.tensor(trees.boosted.margins(columns.numpy()))
        logit = (1.0 - trees.weight) * logit + trees.weight * margins
    scores: NDArray[np.float32] = torch.sigmoid(logit).numpy()
    return scores


@torch.inference_mode()
def torch_answers(network: Network, inputs: Inputs, trees: Trees | None = None) -> NDArray[np.float32]:
    """What the graph of a quantity must reproduce before its interval is calibrated: [B, 3] score, low, high."""
    answers, columns = Parts(network).eval()(*map(torch.tensor, inputs))
    if trees:
        margins = torch.tensor(trees.boosted.margins(columns.numpy()))
        answers = answers + trees.weight * (margins - answers[:, 0]).unsqueeze(1)
    found: NDArray[np.float32] = answers.numpy()
    return found


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """torch 2.13 announces that this exporter will go some day; the pin and the parity check cover that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript-based ONNX export")
        warnings.filterwarnings("ignore", message="The feature will be removed. Please remove usage of this function")
        yield


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """The quantiser reports on the root logger, with advice that this module already follows."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
