"""KFP face of `score`: feature set in, scores by a registered model out."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def score(
    feature_set: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Dataset],
    model_version: str = "",
    first_day: str = "",
    last_day: str = "",
) -> None:
    """Days of a feature set through a model version (empty: the champion); days that are there are not scored again."""
    from pathlib import Path

    from components.score.core import model_to_score_with
    from components.score.core import score as verb
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    features = Manifest.read(Path(feature_set.path), "feature_set")
    here = settings(features.workload)
    model, version = model_to_score_with(here, model_version)
    result = verb(
        features,
        model,
        version,
        here.lake,
        first_day=first_day,
        last_day=last_day,
        threads=here.threads,
        memory_limit_gb=here.memory_limit_gb,
    )
    result.hand_over(Path(scores.path))
    scores.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "rows": result.facts["rows"]}
