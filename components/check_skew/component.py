"""KFP face of `check_skew`: feature set and online store in, verdict out; the gate is a step of its own."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_skew(
    feature_set: dsl.Input[dsl.Artifact],
    online_store: dsl.Input[dsl.Artifact],
    skew_check: dsl.Output[dsl.Dataset],
    sample: int = 300,
    accept: dict = {},  # noqa: B006 - a KFP default is a constant
) -> None:
    """Compare offline, online and batch inputs of a sample of events."""
    from pathlib import Path

    from components.check_skew.core import SkewConfig, check_skew
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    here = settings()
    result = check_skew(
        Manifest.read(Path(feature_set.path), "feature_set"),
        Manifest.read(Path(online_store.path), "online_store"),
        here.lake,
        here.home,
        SkewConfig(sample=sample),
        accept=accept,
        serving=here.feature_store,
        threads=here.threads,
        memory_limit_gb=here.memory_limit_gb,
    )
    result.hand_over(Path(skew_check.path))
    passed = result.facts["passed"]
    skew_check.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "passed": passed}
