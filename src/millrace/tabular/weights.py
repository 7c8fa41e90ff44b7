"""A trained network as files: `weights.safetensors`, and `model.json` that says whose it is and of what sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from millrace.errors import ArtifactCorrupt, NotFound
from millrace.installed import Workload, workload_of
from millrace.lake.atomic import replacing_file, write_text
from millrace.tabular.network import Network

WEIGHTS: Final = "weights.safetensors"
DESCRIPTION: Final = "model.json"


def save_network(network: Network, workload: Workload, folder: Path, **description: Any) -> None:
    """Write both files; `description` adds to `model.json` (name, seeds, …)."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing_file(folder / WEIGHTS) as aside:
        save_file(tensors, aside)
    content: dict[str, Any] = {
        "workload": workload.name,
        "task": workload.task,
        "outputs": list(network.outputs),
        "feature_service": workload.features.FEATURE_SERVICE,
        "feature_names": list(network.feature_names),
        "parameters": network.architecture.model_dump(),
    }
    if workload.document:
        content["variant"] = json.loads(workload.document)
    if network.sequence_length:
        content["history_channels"] = list(workload.features.HISTORY_CHANNELS)
        content["sequence_length"] = network.sequence_length
    write_text(folder / DESCRIPTION, json.dumps(content | description, indent=2, sort_keys=True) + "\n")


def load_network(folder: Path) -> Network:
    """The network of a folder, on the CPU and in evaluation mode.

    Raises NotFound when a file is absent, ArtifactCorrupt when the weights do not fit `model.json`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise NotFound(f"no {name} in {folder}. Train a model first.")
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        model = workload_of(content).model
        architecture = model.Architecture(**content["parameters"])
        network: Network = model.network(architecture, content["feature_names"])
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, ValidationError) as error:
        raise ArtifactCorrupt(f"{folder} does not hold one whole model: {error}. Train it again.") from error
    return network.eval()
