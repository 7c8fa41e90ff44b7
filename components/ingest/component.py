"""KFP face of `ingest`: raw events in, snapshot out."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(
    source: str,
    snapshot: dsl.Output[dsl.Dataset],
    source_version: str = "",  # noqa: ARG001  read by the cache, not by the code
    columns: dict = {},  # noqa: B006  KFP reads defaults from the signature
    workload: str = "",
    variant: dict = {},  # noqa: B006
) -> None:
    """The snapshot of what lies at `source`.

    Args:
        source: a file, a folder or a glob behind any fsspec URI, or the URL of a database's table.
        snapshot: the manifest.
        source_version: changes when the source does (`core.source_version`), so that KFP's cache sees it.
        columns: how the source is written and where each field comes from (`millrace.reading.document`).
        workload: name of the workload whose events they are; empty for MILLRACE_WORKLOAD's.
        variant: the document of that workload where it is a variant, kept in the home for the steps that follow.
    """
    from pathlib import Path

    from components.ingest.config import IngestConfig
    from components.ingest.core import ingest
    from millrace.installed import declare
    from millrace.reading.document import parse
    from millrace.settings import settings
    from millrace.variants.document import home

    if variant:
        declare(variant, home())
    here = settings(workload)
    config = IngestConfig(
        workload=here.workload,
        pseudonym_key=here.pseudonym_secret(),
        columns=parse(columns),
        memory_limit_gb=here.memory_limit_gb,
        threads=here.threads,
    )
    result = ingest(source, here.lake, config)
    result.hand_over(Path(snapshot.path))
    snapshot.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "rows": result.facts["rows"]}
