"""KFP face of `core.promote`. It has side effects: compose it with caching switched off."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    skew_check: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    promotion: dsl.Output[dsl.Dataset],
    model_card: dsl.Output[dsl.Markdown],
    run_id: str = "",
    reason: str = "",
    canary_percent: int = 0,
) -> None:
    """Give a model whose gates all passed a version of its own; first champion, then challengers."""
    from pathlib import Path

    from components.promote.core import MODEL_CARD, PromoteConfig
    from components.promote.core import promote as verb
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    trained = Manifest.read(Path(model.path), "model")
    result = verb(
        trained,
        Manifest.read(Path(evaluation.path), "evaluation"),
        Manifest.read(Path(skew_check.path), "skew_check"),
        settings(trained.workload),
        PromoteConfig(run_id=run_id, reason=reason, canary_percent=canary_percent),
        validation=Manifest.read(Path(validation.path), "validation"),
    )
    Path(model_card.path).write_text(result.path(MODEL_CARD).read_text(encoding="utf-8"), encoding="utf-8")
    result.hand_over(Path(promotion.path))
    promotion.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, **result.facts}
