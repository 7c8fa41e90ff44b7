"""Every setting, typed, with its unit; environment prefix `MILLRACE_`. The defaults need no configuration.

`settings()` reads the environment once per call: nothing is read at import. Hyper-parameters of a model are
not settings: they live in the workload's train.yaml.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from millrace.errors import ConfigError
from millrace.installed import default_name, load


class Settings(BaseSettings):
    """One field per setting; `MILLRACE_<NAME>` in the environment overrides it."""

    model_config = SettingsConfigDict(env_prefix="MILLRACE_", extra="ignore", frozen=True)

    home: Path = Field(default=Path(".millrace"), validate_default=True)
    """Folder of all local state; absolute once read, so that manifests hold in every working directory."""

    workload: str = Field(default_factory=default_name)
    """What is modelled: a name of the entry point group `millrace.workloads`; absent: `millrace.default_workload`."""

    feature_store: Path | None = None
    """feature_store.yaml of the online store that serves, where that is not the home's own: Redis on a cluster."""

    lake_remote: str = ""
    """Object store whose cache the lake is, such as s3://bucket/prefix; empty: the lake is all there is. Credentials
    come from the environment (AWS_ACCESS_KEY_ID and so on), never from here."""

    history_length: int = Field(default=64, ge=1, le=512)
    """N: events kept in a recent view."""

    pseudonym_key: SecretStr | None = None
    """Key of the keyed hash over ids that are pseudonymised; made once per home where absent."""

    accept_pseudonyms: bool = False
    """Let a request say that its ids are pseudonyms already; the local runtime sets it, to replay a day."""

    lookup_timeout_s: float = Field(default=0.25, gt=0)
    """Longest wait for the online store, in seconds. After it the answer is made from defaults and marked degraded."""

    deadline_ms: int = Field(default=5000, ge=1)
    """What a whole answer may take; a request's `x-deadline-ms` may shorten it."""

    future_tolerance_s: float = Field(default=300.0, ge=0)
    """How far ahead of this machine's clock an event may say it happened; one of later is refused."""

    strict_requests: bool = False
    """Refuse a request with a field that the model does not read; off: such fields are passed over."""

    state_cache_ttl_s: float = Field(default=300.0, ge=0)
    """How long the transformer keeps states of refreshed views in memory, s; 0: not at all."""

    predictor_topology: str = Field(default="remote", pattern="^(remote|in_process)$")
    """Where the transformer's model is: behind --predictor_host, or in its own process from --model_dir."""

    shadow_url: str = ""
    """Predictor that gets a copy of every scored event: `http://host:port/v2/models/NAME/infer`; empty: none."""

    ab_host: str = ""
    """The challenger's predictor of an A/B test, written as `shadow_url` or as host:port; empty: none."""

    ab_percent: float = Field(default=0.0, ge=0, le=100)
    """Share of units, in percent, whose events the challenger scores."""

    cascade: bool = True
    """Let a model's cheap first stage answer the clear cases, where it has one; off: every row goes to the full one."""

    batch_rows: int = Field(default=64, ge=1, le=1024)
    """Rows that the predictor puts into one run of the graph; a larger request is a run of its own. 1: no batching."""

    batch_run_ms: float = Field(default=50.0, gt=0)
    """A batch is cut so that its run is expected to take at most this much CPU time."""

    queue_rows: int = Field(default=2048, ge=1024)
    """Rows that may wait for the graph; past it the predictor answers 503 with Retry-After."""

    cache_ttl_s: float = Field(default=0.0, ge=0)
    """How long the predictor may answer an identical request from its cache; 0: no cache."""

    cache_rows: int = Field(default=16384, ge=1)
    """Scores that the cache keeps; the oldest go first."""

    mlflow_tracking_uri: str = ""
    """Empty: SQLite under `home`."""

    model_name: str = Field(default="", validate_default=True)
    """Registered model and InferenceService name; empty: the workload's."""

    model_store_uri: str = ""
    """How serving reaches `<home>/serving/models`, such as pvc://millrace/serving/models; empty: as file://."""

    gateway_port: int = Field(default=8080, ge=1, le=65535)
    """Port of the local gateway; the next free one is taken when it is in use."""

    gateway_token: SecretStr | None = None
    """Bearer token that the local gateway wants with every prediction; none wants none. A cluster has Istio for it."""

    gateway_rate_limit: int = Field(default=0, ge=0)
    """Requests a second that the local gateway lets in, others get 429; 0: all."""

    tls_cert: Path | None = None
    """Certificate chain (PEM) of the local gateway, whose ports then speak TLS; goes with `tls_key`."""

    tls_key: Path | None = None
    """Private key of `tls_cert`."""

    transformer_replicas: int = Field(default=1, ge=1, le=16)
    """Processes of a transformer that the local runtime starts, up to its manifest's `maxReplicas`; on a cluster the
    autoscaler decides."""

    predictor_replicas: int = Field(default=1, ge=1, le=16)
    """Processes of each revision of a predictor that the local runtime starts, likewise."""

    companions: str = "prediction-log,drift-detector"
    """What the local runtime starts beside the served model, comma-separated folders of manifests/base/serving."""

    rollout_policy: Path | None = None
    """YAML with steps and limits of a canary; absent: serving/rollout/rollout.yaml."""

    prometheus_url: str = "http://prometheus-operated.monitoring:9090"
    """Where the rollout controller of a cluster reads how revisions do."""

    canary_percent: int = Field(default=0, ge=0, le=99)
    """Traffic that a challenger gets as soon as it is promoted; 0: none, until `make canary` says so."""

    processes: int = Field(default=2, ge=1)
    """Training processes on this machine, or in each pod of a training job."""

    train_launcher: Literal["torchrun", "pytorchjob", "trainjob"] = "torchrun"
    """Where `train` runs its processes: here, or in a job of Kubeflow's training operator (v1) or Trainer (v2)."""

    train_image: str = "millrace/train:0.1.0"
    """Image of a training job's pods."""

    train_namespace: str = ""
    """Namespace of training jobs; empty: that of the pod that launches."""

    train_nodes: int = Field(default=2, ge=1)
    """Pods of a training job; at most so many where it is elastic."""

    train_min_nodes: int = Field(default=1, ge=1)
    """An elastic job goes on with so many."""

    train_start_timeout_s: float = Field(default=900, gt=0)
    """How long a training job may wait for nodes and images before it is given up."""

    train_timeout_s: float = Field(default=6 * 3600, gt=0)
    """How long a training job may take."""

    threads: int = Field(default=2, ge=1)
    """Threads of an engine (DuckDB) in one step."""

    memory_limit_gb: float = Field(default=3.0, gt=0)
    """Memory ceiling handed to DuckDB; past it, it spills to disk."""

    spark_master: str = ""
    """Spark's master, such as local[4] or k8s://https://…, to compute features on it; empty: DuckDB on this machine."""

    review_capacity: int = Field(default=100, ge=1)
    """Units that people can review in a day; the k of unit precision."""

    stream_url: SecretStr = SecretStr("")
    """Where events are kept until everybody has read them: redis://… or sqlite:///…; empty: SQLite under `home`."""

    stream_keep_events: int = Field(default=100_000, ge=0)
    """Events that the stream keeps after every group has taken them, for a group that begins later."""

    stream_keep_hours: float = Field(default=24.0, ge=0)
    """How long it keeps them."""

    prediction_log_url: SecretStr = SecretStr("")
    """Database of the prediction log: postgresql://… or sqlite:///…; empty: SQLite under `home`."""

    log_retention_days: int = Field(default=400, ge=0)
    """How long the prediction log keeps a prediction, and its labels with it; 0: for ever."""

    retraining_trigger_url: str = ""
    """Where monitoring sends alarms (CloudEvents), and people ask; empty: nowhere. The detector's are on the stream."""

    retraining_launcher: Literal["local", "kfp"] = "local"
    """Where a retraining runs: on this machine, or submitted to Kubeflow Pipelines."""

    kfp_host: str = ""
    """URL of the Kubeflow Pipelines API that retrainings are submitted to; empty: the cluster's own."""

    kfp_namespace: str = ""
    """Profile namespace of retraining runs in a multi-user installation."""

    retraining_source: str = ""
    """Raw events that a retraining reads, any fsspec URI; empty: what the champion's snapshot was read from."""

    retraining_overrides: Path | None = None
    """YAML of a retraining's limits and hyper-parameters, as `run.loop --overrides` takes; absent: none."""

    retraining_train_days: int = Field(default=0, ge=0)
    """Training window of a retraining, days; 0: 28, or what fits the data."""

    retraining_debounce_s: float = Field(default=30.0, ge=0)
    """Alarms that come so soon after the first one join its retraining."""

    retraining_cooldown_h: float = Field(default=24.0, ge=0)
    """No alarm begins a retraining so soon after the last one ended; a person may."""

    retraining_every_days: float = Field(default=0.0, ge=0)
    """A retraining on schedule when none has run for so long; 0: none."""

    retraining_timeout_h: float = Field(default=6.0, gt=0)
    """A retraining that takes longer is given up and reported."""

    log_format: str = Field(default="text", pattern="^(text|json)$")
    """`json` in containers."""

    @field_validator("model_name")
    @classmethod
    def _of_the_workload(cls, name: str, info: ValidationInfo) -> str:
        return name or load(info.data["workload"], home=info.data.get("home")).model_name

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @property
    def lake(self) -> Path:
        return self.home / "lake"

    @property
    def reports(self) -> Path:
        """Folder of the workload's pages and of the index that links them."""
        return self.home / "report" / self.workload

    @property
    def prediction_log(self) -> Path:
        """Folder of the prediction log's database where that is SQLite."""
        return self.home / "prediction_log"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI; absolute, so that every working directory means the same database."""
        return self.mlflow_tracking_uri or f"sqlite:///{(self.home / 'mlflow' / 'mlflow.db').resolve()}"

    @property
    def gateway_headers(self) -> dict[str, str]:
        """What a client of the local gateway sends along; raises ConfigError for an empty token."""
        if self.gateway_token is None:
            return {}
        token = self.gateway_token.get_secret_value()
        if not token.strip():
            raise ConfigError("MILLRACE_GATEWAY_TOKEN is empty; wanted a token. Unset it to want none.")
        return {"authorization": f"Bearer {token}"}

    def pseudonym_secret(self) -> bytes:
        """The key bytes; a missing one is created in `home`, readable by its owner only.

        Raises ConfigError for an empty one: ids hashed with no key can be guessed.
        """
        path = self.home / "pseudonym.key"
        if self.pseudonym_key is not None:
            where = "MILLRACE_PSEUDONYM_KEY"
            text = self.pseudonym_key.get_secret_value()
        else:
            if not path.exists():
                _make_key(path)
            where = str(path)
            text = path.read_text(encoding="utf-8")

        if not text.strip():
            raise ConfigError(f"{where} is empty; wanted a key. Put the key back there, or remove it to have one made.")
        return text.encode()


def settings(workload: str = "") -> Settings:
    """Read the environment; a `workload` that is named goes before MILLRACE_WORKLOAD.

    MILLRACE_MODEL_NAME is the name of that one's model: another workload's model has its own.

    Raises ConfigError naming the variable, what it holds and what was wanted.
    """
    try:
        chosen = Settings()
        other = workload not in ("", chosen.workload)
        return Settings(workload=workload, model_name="") if other else chosen
    except ValidationError as error:
        lines = [
            f"MILLRACE_{'_'.join(str(part) for part in item['loc']).upper()} is {item['input']!r}: {item['msg']}"
            for item in error.errors()
        ]
        raise ConfigError("; ".join(lines)) from error


def _make_key(path: Path) -> None:
    """A new key at `path`, whole when it appears; the one of whoever came first stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600

    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(32))
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(aside, path)  # unlike a rename, never over a key that is there
    finally:
        Path(aside).unlink()
