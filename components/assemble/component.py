"""KFP face of `assemble`: feature set in, training set out."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def assemble(
    feature_set: dsl.Input[dsl.Artifact],
    training_set: dsl.Output[dsl.Dataset],
    as_of: str = "",
    train_days: int = 0,
    validation_days: int = 0,
) -> None:
    """Rows, labels known in time and histories of the windows that follow from `as_of` (empty: the last day).

    Windows of 0 days are as long as the data want them.
    """
    from pathlib import Path

    from components.assemble.core import Asked, assemble_fitted
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    here = settings()
    source = Manifest.read(Path(feature_set.path), "feature_set")
    asked = Asked(as_of=as_of, train_days=train_days, validation_days=validation_days)
    result = assemble_fitted(source, here.lake, asked, threads=here.threads, memory_limit_gb=here.memory_limit_gb)
    result.hand_over(Path(training_set.path))
    training_set.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "splits": result.facts["splits"]}
