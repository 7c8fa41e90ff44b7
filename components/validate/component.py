"""KFP face of `validate`: snapshot in, validation and its page out."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate(
    snapshot: dsl.Input[dsl.Dataset],
    validation: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    overrides: dict = {},  # noqa: B006 - a KFP default is a constant
    profile: str = "",
    accept: dict = {},  # noqa: B006
    for_training: bool = True,
    as_of: str = "",
    train_days: int = 0,
) -> None:
    """Judge a snapshot's distributions; never blocks by itself: the gate reads the verdict."""
    from pathlib import Path

    from components.validate.config import ValidateConfig
    from components.validate.core import find_previous
    from components.validate.core import validate as verb
    from millrace.installed import load
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    here = settings()
    manifest = Manifest.read(Path(snapshot.path), "snapshot")
    config = ValidateConfig.load(load(manifest.workload), overrides, profile=profile)
    result = verb(
        manifest,
        find_previous(manifest, here.lake),
        here.lake,
        config,
        accept=accept,
        for_training=for_training,
        as_of=as_of,
        train_days=train_days,
        threads=here.threads,
        memory_limit_gb=here.memory_limit_gb,
    )
    result.hand_over(Path(validation.path))
    passed = result.facts["passed"]
    validation.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "passed": passed}
    Path(report.path).write_bytes(result.path("report.html").read_bytes())
