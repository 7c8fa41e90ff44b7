"""KFP face of `build_features`: snapshot in, feature set out."""

from kfp import dsl

from components.image import FEATURES_IMAGE


@dsl.component(base_image=FEATURES_IMAGE, install_kfp_package=False)
def build_features(snapshot: dsl.Input[dsl.Artifact], feature_set: dsl.Output[dsl.Dataset]) -> None:
    """Feature tables of every day of the snapshot; days that are there already are not computed again."""
    from pathlib import Path

    from components.build_features.core import build_features
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    here = settings()
    result = build_features(
        Manifest.read(Path(snapshot.path), "snapshot"),
        here.lake,
        history_length=here.history_length,
        threads=here.threads,
        memory_limit_gb=here.memory_limit_gb,
        spark_master=here.spark_master,
    )
    result.hand_over(Path(feature_set.path))
    feature_set.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "rows": result.facts["rows"]}
