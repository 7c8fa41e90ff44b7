"""KFP face of `train`: training set in, model out."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    training_set: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    overrides: dict = {},  # noqa: B006 - a KFP default is a constant
) -> None:
    """Train with the workload's train.yaml, `overrides` winning, on the processes that the settings name."""
    from pathlib import Path

    from components.train.core import read_config, train
    from millrace.installed import load
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    rows = Manifest.read(Path(training_set.path), "training_set")
    here = settings(rows.workload)
    result = train(rows, here.lake, read_config(load(rows.workload), **overrides), here)
    result.hand_over(Path(model.path))
    model.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, **result.facts}
