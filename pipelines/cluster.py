"""What a pipeline step asks of a cluster: resources, retries, the shared home, settings and secrets by reference.

Compiled into the package; `kfp.local` has no use for any of it. The names are those of `manifests/base/pipelines`;
a contract test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask

HOME: Final = "/var/lib/millrace"
"""Where the volume that holds MILLRACE_HOME is mounted."""
HOME_CLAIM: Final = "millrace-home"
"""PersistentVolumeClaim, ReadWriteMany: what one step leaves in the lake, the next one reads."""
SETTINGS_CONFIG_MAP: Final = "millrace-settings"
SETTINGS: Final = (
    "MILLRACE_HOME",
    "MILLRACE_FEATURE_STORE",
    "MILLRACE_HISTORY_LENGTH",
    "MILLRACE_LAKE_REMOTE",
    "MILLRACE_LOG_FORMAT",
    "MILLRACE_MLFLOW_TRACKING_URI",
    "MILLRACE_MODEL_STORE_URI",
    "MILLRACE_SPARK_MASTER",
    "MILLRACE_TRAIN_LAUNCHER",
    "MILLRACE_RETRAINING_TRIGGER_URL",
)
"""Keys of the ConfigMap that steps see; one that it lacks keeps its default."""
REQUIRED_SECRETS: Final = {"millrace-pseudonym": {"key": "MILLRACE_PSEUDONYM_KEY"}}
STORAGE_CONFIG_MAP: Final = "millrace-storage"
STORAGE: Final = ("AWS_ENDPOINT_URL", "AWS_REGION")
"""Keys of the ConfigMap that says where a bucket is: of raw events, and of the lake where that has a remote."""
OPTIONAL_SECRETS: Final = {
    "millrace-prediction-log": {"url": "MILLRACE_PREDICTION_LOG_URL"},
    "millrace-s3": {"access-key-id": "AWS_ACCESS_KEY_ID", "secret-access-key": "AWS_SECRET_ACCESS_KEY"},
}
"""Secret → its key → environment variable; a step does not start without a required one."""
FEATURE_STORE_CONFIG_MAP: Final = "feature-store-of-steps"
FEATURE_STORE_FOLDER: Final = "/etc/feast"
USES_FEATURE_STORE: Final = ("materialize", "check-skew")
FEATURE_STORE_SECRETS: Final = {
    "millrace-redis": {"address": "FEAST_REDIS"},
    "millrace-feast": {"registry-url": "FEAST_REGISTRY_URL"},
}
"""Of the steps that fill the store that serves, or judge it."""
LABELS: Final = {"app.kubernetes.io/part-of": "millrace"}


@dataclass(frozen=True, slots=True)
class Needs:
    """Of one step: the limit is what it may use, the request what it is sure to get. Memory in GiB."""

    cpu: str = "1"
    memory_gib: float = 2
    retries: int = 2
    """After a lost pod or an unreachable store; a verdict is not tried again."""
    node_selector: tuple[tuple[str, str], ...] = ()


NEEDS: Final = {
    "ingest": Needs(cpu="2", memory_gib=4),
    "build-features": Needs(cpu="2", memory_gib=6),
    "materialize": Needs(cpu="1", memory_gib=4),
    "assemble": Needs(cpu="2", memory_gib=6),
    "train": Needs(cpu="2", memory_gib=6),
    "optimise": Needs(cpu="2", memory_gib=4),
    "evaluate": Needs(cpu="2", memory_gib=4),
    "score": Needs(cpu="2", memory_gib=4),
    "gate-data": Needs(cpu="500m", memory_gib=1, retries=0),
    "gate-model": Needs(cpu="500m", memory_gib=1, retries=0),
}
"""Measured on 1.78 million rows: features peak at 1.3 GB, ingest at 0.8 (benchmarks); the rest is room to grow."""


def on_cluster(*tasks: PipelineTask) -> None:
    """Give each step what `NEEDS` says under its name, and every step the home, the settings and the secrets."""
    from kfp import kubernetes

    for task in tasks:
        needs = NEEDS.get(task.name, Needs())
        memory = f"{needs.memory_gib:g}Gi"
        task.set_cpu_request(needs.cpu).set_memory_request(memory).set_memory_limit(memory)
        if needs.retries:
            task.set_retry(needs.retries, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s")
        for key, value in needs.node_selector:
            kubernetes.add_node_selector(task, key, value)
        for key, value in LABELS.items():
            kubernetes.add_pod_label(task, key, value)
        kubernetes.mount_pvc(task, HOME_CLAIM, HOME)
        kubernetes.use_config_map_as_env(task, SETTINGS_CONFIG_MAP, {name: name for name in SETTINGS}, optional=True)
        kubernetes.use_config_map_as_env(task, STORAGE_CONFIG_MAP, {name: name for name in STORAGE}, optional=True)
        for name, keys in REQUIRED_SECRETS.items():
            kubernetes.use_secret_as_env(task, name, keys, optional=False)
        for name, keys in OPTIONAL_SECRETS.items():
            kubernetes.use_secret_as_env(task, name, keys, optional=True)
        if task.name in USES_FEATURE_STORE:
            kubernetes.use_config_map_as_volume(task, FEATURE_STORE_CONFIG_MAP, FEATURE_STORE_FOLDER)
            for name, keys in FEATURE_STORE_SECRETS.items():
                kubernetes.use_secret_as_env(task, name, keys, optional=False)
