"""KFP face of `ingest`: raw events in, snapshot out."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(
    source: str,
    snapshot: dsl.Output[dsl.Dataset],
    column_map: str = "",
    timezone: str = "",
) -> None:
    """The snapshot of what lies at `source`; `column_map` is `raw=ours,raw=ours`, `timezone` that of naive times."""
    from pathlib import Path

    from components.ingest.core import IngestConfig, ingest, parse_column_map
    from millrace.settings import settings

    here = settings()
    config = IngestConfig(
        pseudonym_key=here.pseudonym_secret(),
        column_map=parse_column_map(column_map),
        timezone=timezone,
        memory_limit_gb=here.memory_limit_gb,
        threads=here.threads,
    )
    result = ingest(source, here.lake, config)
    result.write(Path(snapshot.path))
    snapshot.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "rows": result.facts["rows"]}
