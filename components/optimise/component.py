"""KFP face of `core.optimise`."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def optimise(
    model: dsl.Input[dsl.Model],
    training_set: dsl.Input[dsl.Dataset],
    optimised: dsl.Output[dsl.Model],
) -> None:
    """Export, check, measure, and decide what is served."""
    from pathlib import Path

    from components.optimise.cascade import CascadeConfig
    from components.optimise.config import OptimiseConfig
    from components.optimise.core import optimise as verb
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    config = settings()
    result = verb(
        Manifest.read(Path(model.path), "model"),
        Manifest.read(Path(training_set.path), "training_set"),
        config.lake,
        OptimiseConfig(review_capacity=config.review_capacity, cascade=CascadeConfig(in_use=config.cascade)),
    )
    result.hand_over(Path(optimised.path))
    figures = {name: result.facts[name] for name in ("served_file", "decision_threshold") if name in result.facts}
    optimised.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri} | figures
