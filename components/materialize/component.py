"""KFP face of `materialize`: feature set in, filled online store out."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def materialize(feature_set: dsl.Input[dsl.Artifact], online_store: dsl.Output[dsl.Dataset], as_of: str = "") -> None:
    """States as of an instant (empty: the start of the last day) of a workload's entities into a generation aside."""
    from pathlib import Path

    from components.materialize.core import materialize
    from components.materialize.dropping import drop_unused
    from millrace.lake.horizon import resolve_as_of
    from millrace.lake.manifest import Manifest
    from millrace.registry.generations import generations_in_use
    from millrace.settings import settings

    source = Manifest.read(Path(feature_set.path), "feature_set")
    here = settings(source.workload)
    drop_unused(here)
    result = materialize(
        source,
        here.lake,
        here.home,
        resolve_as_of(source, as_of),
        in_use=generations_in_use(here),
        serving=here.feature_store,
        threads=here.threads,
        memory_limit_gb=here.memory_limit_gb,
    )
    result.hand_over(Path(online_store.path))
    about = {name: result.facts[name] for name in ("as_of", "generation")}
    online_store.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, **about}
