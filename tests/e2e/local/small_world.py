"""A small world for serving tests, by the ordinary components. Arguments: HOME DAYS CUSTOMERS TERMINALS N."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from components.build_features.core import build_features
from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from components.materialize.core import materialize
from fraud.simulator import SimulationConfig, write
from millrace.settings import Settings

home = Path(sys.argv[1])
days, customers, terminals, history_length = map(int, sys.argv[2:])
settings = Settings(home=home, history_length=history_length)
write(SimulationConfig(days=days, customers=customers, terminals=terminals), home / "raw")
snapshot = ingest(
    str(home / "raw"), settings.lake, IngestConfig(workload="fraud", pseudonym_key=settings.pseudonym_secret())
)
features = build_features(snapshot, settings.lake, history_length=history_length)
last_day = datetime.fromisoformat(features.facts["last_day"]).replace(tzinfo=UTC)
materialize(features, settings.lake, home, last_day, generation="served")
print(features.uri)
