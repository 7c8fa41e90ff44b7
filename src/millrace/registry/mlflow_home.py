"""MLflow as every part of this project opens it: a quiet client, and experiments whose artifacts lie in the home.

An embedded database is made, or migrated, by whoever opens it first. MLflow does not expect two of them at once, so
they wait for each other at a lock file beside it. MLflow takes 2.5 s to import and is loaded by the first call.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from millrace.errors import ArtifactCorrupt, Unavailable
from millrace.lake.atomic import waiting
from millrace.settings import Settings


def mlflow_client(uri: str) -> Any:
    """An MLflow client, its tables made; raises Unavailable when the database or server does not answer.

    MLflow itself tries a database for a minute and a half before it gives up.
    """
    for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # MLflow's own models use an option that SQLAlchemy has deprecated.
        warnings.simplefilter("ignore")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import DatabaseError, OperationalError

        try:
            with _alone(uri):
                return MlflowClient(tracking_uri=uri, registry_uri=uri)
        except (MlflowException, DatabaseError, OSError) as error:
            _require_whole(uri, error)
            if isinstance(error, DatabaseError) and not isinstance(error, OperationalError):
                raise
            parts = urlsplit(uri)
            place = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"  # never the password
            raise Unavailable(f"the model registry at {place} does not answer. Is the server up?") from error


def experiment_id(client: Any, name: str, settings: Settings) -> str:
    """Id of the experiment, created with an artifact folder under `home` where MLflow is embedded."""
    with _alone(settings.tracking_uri):
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        embedded = (settings.home / "mlflow" / "artifacts").resolve().as_uri()
        return str(client.create_experiment(name, None if settings.mlflow_tracking_uri else embedded))


def _require_whole(uri: str, error: Exception) -> None:
    """Raise ArtifactCorrupt for an embedded database that was cut short, with its file and what to do."""
    text = str(error)
    if uri.startswith("sqlite:///") and ("malformed" in text or "not a database" in text):
        path = uri.removeprefix("sqlite:///")
        raise ArtifactCorrupt(
            f"{path} is damaged: {text.splitlines()[0]}. Move it away (mv '{path}' '{path}.broken') and register the "
            "models again: make run. What serves goes on meanwhile."
        ) from error


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Keeps other processes of this machine out of the same place; a server looks after itself."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    with waiting(Path(uri.removeprefix("sqlite:///")).with_suffix(".lock")):
        yield
