"""KFP face of `materialize`: feature set in, filled online store out."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def materialize(feature_set: dsl.Input[dsl.Artifact], online_store: dsl.Output[dsl.Dataset], as_of: str = "") -> None:
    """States as of an instant (empty: the start of the last day) of a workload's entities into its online store."""
    from pathlib import Path

    from components.materialize.core import materialize
    from millrace.lake.horizon import resolve_as_of
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    here = settings()
    source = Manifest.read(Path(feature_set.path), "feature_set")
    result = materialize(
        source,
        here.lake,
        here.home,
        resolve_as_of(source, as_of),
        serving=here.feature_store,
        threads=here.threads,
        memory_limit_gb=here.memory_limit_gb,
    )
    result.hand_over(Path(online_store.path))
    online_store.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "as_of": result.facts["as_of"]}
