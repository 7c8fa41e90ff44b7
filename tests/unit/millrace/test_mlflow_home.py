"""An embedded MLflow is opened by several processes at once, the first time too."""

import subprocess
import sys

import pytest

from millrace.errors import ArtifactCorrupt, Unavailable
from millrace.registry.mlflow_home import mlflow_client

OPEN = """
from millrace.registry.mlflow_home import experiment_id, mlflow_client
from millrace.settings import settings
client = mlflow_client(settings().tracking_uri)
print(client.create_run(experiment_id(client, "together", settings())).info.experiment_id)
"""


def test_processes_that_open_a_fresh_database_together_share_it(tmp_path):
    environment = {"MILLRACE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}

    started = [
        subprocess.Popen([sys.executable, "-c", OPEN], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in started]

    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(set(answers)) == 1


def test_a_database_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "mlflow").write_text("a file, not a folder")

    with pytest.raises(Unavailable, match=r"mlflow/mlflow\.db does not answer"):
        mlflow_client(f"sqlite:///{tmp_path}/mlflow/mlflow.db")


def test_a_database_that_was_cut_short_is_named_with_what_to_do(tmp_path):
    database = tmp_path / "mlflow.db"
    database.write_bytes(b"not a database" * 1000)

    with pytest.raises(ArtifactCorrupt, match=r"mlflow\.db is damaged: .*Move it away \(mv"):
        mlflow_client(f"sqlite:///{database}")
