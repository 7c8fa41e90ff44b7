# syntax=docker/dockerfile:1
# One named target per deployable (requirements/images/targets): docker build --target predictor .  or  make images
# Two stages each: an environment from that target's lock alone, then code and environment on a bare Python, as uid 10001.
# Every base and index can be replaced, to build behind a mirror:
#   --build-arg PYTHON_IMAGE=mirror.example.com/python:3.11-slim-bookworm@sha256:…  --build-arg PIP_INDEX_URL=…

# 3.11-slim-bookworm; `make base-digest` asks the registry what the tag means today.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
# 2024-01-01. The same sources give the same bytes, whenever they are built.
ARG SOURCE_DATE_EPOCH=1704067200
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown


FROM ${PYTHON_IMAGE} AS installer
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG UV_INDEX_URL=${PIP_INDEX_URL}
ARG UV_EXTRA_INDEX_URL=${PIP_EXTRA_INDEX_URL}
# Where wheels without CUDA are: the lock says torch==2.13.0 and nothing of where it comes from.
ARG UV_FIND_LINKS
ARG SOURCE_DATE_EPOCH
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_PYTHON_DOWNLOADS=never
# A wheel is fetched once for all images: the cache is the engine's, and in no layer.
ENV UV_CACHE_DIR=/var/cache/uv UV_LINK_MODE=copy
# Stages made from this one see the environment with every engine; its arguments only BuildKit hands on.
ENV UV_INDEX_URL=$UV_INDEX_URL UV_EXTRA_INDEX_URL=$UV_EXTRA_INDEX_URL UV_FIND_LINKS=$UV_FIND_LINKS SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH
COPY requirements/uv.txt /requirements/uv.txt
RUN pip install --quiet --root-user-action=ignore -r /requirements/uv.txt && python -m venv --without-pip /opt/venv
COPY --chmod=0755 requirements/install-lock /usr/local/bin/install-lock


FROM ${PYTHON_IMAGE} AS runtime
ARG SOURCE_DATE_EPOCH
ARG VERSION
ARG REVISION
ARG SOURCE
LABEL org.opencontainers.image.vendor="Millrace" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
# Nothing is installed into a running container.
RUN pip uninstall --quiet --yes --root-user-action=ignore setuptools wheel pip \
 && rm -rf /usr/local/lib/python3.11/ensurepip /root/.cache \
 && echo 'millrace:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'millrace:x:10001:' >> /etc/group \
 && install -d -o 10001 -g 10001 /var/lib/millrace
# The root file system may be read-only: what is written goes to /tmp and MILLRACE_HOME.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app/src:/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONHASHSEED=0 \
    HOME=/tmp \
    MILLRACE_HOME=/var/lib/millrace \
    MILLRACE_LOG_FORMAT=json
WORKDIR /app
COPY LICENSE /app/LICENSE
USER 10001:10001


# Code as its target sees it, compiled in place.
FROM installer AS code
COPY src /app/src
# Which workloads there are is said by entry points, which a package that is only copied does not have.
COPY pyproject.toml /app/pyproject.toml
COPY --chmod=0755 requirements/entry-points /usr/local/bin/entry-points
RUN entry-points /app/pyproject.toml /app/src && rm /app/pyproject.toml
RUN python -m compileall -q -o 0 -o 1 --invalidation-mode unchecked-hash /app

FROM code AS serving-code
COPY serving /app/serving
RUN python -m compileall -q -o 0 -o 1 --invalidation-mode unchecked-hash /app && find /app -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +

FROM code AS pipeline-code
COPY components /app/components
COPY pipelines /app/pipelines
COPY run /app/run
COPY feature_repo /app/feature_repo
RUN python -m compileall -q -o 0 -o 1 --invalidation-mode unchecked-hash /app && find /app -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +


# Steps of every pipeline.
FROM installer AS pipeline-environment
COPY requirements/images/pipeline.txt /requirements/pipeline.txt
RUN --mount=type=cache,target=/var/cache/uv install-lock pipeline

FROM runtime AS pipeline
LABEL org.opencontainers.image.title="millrace-pipeline" org.opencontainers.image.description="The steps of every pipeline"
COPY --from=pipeline-environment /opt/venv /opt/venv
COPY --from=pipeline-code /app /app
CMD ["python", "-m", "millrace.cli", "--help"]


# Workers of a PyTorchJob or TrainJob.
FROM installer AS train-environment
COPY requirements/images/train.txt /requirements/train.txt
RUN --mount=type=cache,target=/var/cache/uv install-lock train

FROM runtime AS train
LABEL org.opencontainers.image.title="millrace-train" org.opencontainers.image.description="A worker of distributed training"
COPY --from=train-environment /opt/venv /opt/venv
COPY --from=pipeline-code /app/src /app/src
COPY --from=pipeline-code /app/components /app/components
CMD ["python", "-m", "torch.distributed.run", "--help"]


FROM installer AS predictor-environment
COPY requirements/images/predictor.txt /requirements/predictor.txt
RUN --mount=type=cache,target=/var/cache/uv install-lock predictor

FROM runtime AS predictor
LABEL org.opencontainers.image.title="millrace-predictor" org.opencontainers.image.description="ONNX Runtime behind the KServe SDK"
COPY --from=predictor-environment /opt/venv /opt/venv
COPY --from=serving-code /app /app
EXPOSE 8080 8081
CMD ["python", "-m", "serving.predictor.server",]


# With -O, Feast imports in 4 s instead of 10 s.
FROM installer AS transformer-environment
COPY requirements/images/transformer.txt /requirements/transformer.txt
RUN --mount=type=cache,target=/var/cache/uv PYTHONOPTIMIZE=1 install-lock transformer

FROM runtime AS transformer
LABEL org.opencontainers.image.title="millrace-transformer" org.opencontainers.image.description="Requests in, answers out"
ENV PYTHONOPTIMIZE=1
COPY --from=transformer-environment /opt/venv /opt/venv
COPY --from=serving-code /app /app
EXPOSE 8080
CMD ["python", "-m", "serving.transformer.server",]


FROM installer AS explainer-environment
COPY requirements/images/explainer.txt /requirements/explainer.txt
RUN --mount=type=cache,target=/var/cache/uv PYTHONOPTIMIZE=1 install-lock explainer

FROM runtime AS explainer
LABEL org.opencontainers.image.title="millrace-explainer" org.opencontainers.image.description="What each input added to a score"
ENV NUMBA_CACHE_DIR=/tmp/numba PYTHONOPTIMIZE=1
COPY --from=explainer-environment /opt/venv /opt/venv
COPY --from=serving-code /app /app
EXPOSE 8080
CMD ["python", "-m", "serving.explainer.server",]


# alibi-detect's pins cannot join the others: an environment of its own.
FROM installer AS drift-detector-environment
COPY requirements/drift-detector.txt /requirements/drift-detector.txt
# The lock holds what alibi-detect 0.11.4 says it cannot have and runs with: no resolution, just these.
RUN --mount=type=cache,target=/var/cache/uv install-lock drift-detector --no-deps

FROM runtime AS drift-detector
LABEL org.opencontainers.image.title="millrace-drift-detector" org.opencontainers.image.description="Watches inputs, scores and decisions"
COPY --from=drift-detector-environment /opt/venv /opt/venv
COPY --from=serving-code /app /app
EXPOSE 8080
CMD ["python", "-m", "serving.drift_detector.server"]


FROM installer AS prediction-log-environment
COPY requirements/images/prediction-log.txt /requirements/prediction-log.txt
RUN --mount=type=cache,target=/var/cache/uv install-lock prediction-log

FROM runtime AS prediction-log
LABEL org.opencontainers.image.title="millrace-prediction-log" org.opencontainers.image.description="Every prediction, later its label"
COPY --from=prediction-log-environment /opt/venv /opt/venv
COPY --from=serving-code /app /app
EXPOSE 8080
CMD ["python", "-m", "serving.prediction_log.server"]


FROM installer AS rollout-environment
COPY requirements/images/rollout.txt /requirements/rollout.txt
RUN --mount=type=cache,target=/var/cache/uv install-lock rollout

FROM runtime AS rollout
LABEL org.opencontainers.image.title="millrace-rollout" org.opencontainers.image.description="Moves traffic to a canary, or back"
COPY --from=rollout-environment /opt/venv /opt/venv
COPY --from=serving-code /app /app
EXPOSE 8080
CMD ["python", "-m", "serving.rollout"]


FROM installer AS retraining-trigger-environment
COPY requirements/images/retraining-trigger.txt /requirements/retraining-trigger.txt
RUN --mount=type=cache,target=/var/cache/uv install-lock retraining-trigger

FROM runtime AS retraining-trigger
LABEL org.opencontainers.image.title="millrace-retraining-trigger" org.opencontainers.image.description="Alarms in, one retraining out"
COPY --from=retraining-trigger-environment /opt/venv /opt/venv
COPY --from=serving-code /app /app
EXPOSE 8080
CMD ["python", "-m", "serving.retraining_trigger"]


FROM installer AS feature-server-environment
COPY requirements/images/feature-server.txt /requirements/feature-server.txt
RUN --mount=type=cache,target=/var/cache/uv PYTHONOPTIMIZE=1 install-lock feature-server

FROM runtime AS feature-server
LABEL org.opencontainers.image.title="millrace-feature-server" org.opencontainers.image.description="Feast: online features over HTTP; apply and materialize"
ENV PYTHONOPTIMIZE=1
COPY --from=feature-server-environment /opt/venv /opt/venv
COPY --from=pipeline-code /app/src /app/src
COPY --from=pipeline-code /app/feature_repo /app/feature_repo
EXPOSE 6566 8000
CMD ["feast", "--help"]


FROM installer AS mlflow-environment
COPY requirements/images/mlflow.txt /requirements/mlflow.txt
RUN --mount=type=cache,target=/var/cache/uv install-lock mlflow

FROM runtime AS mlflow
LABEL org.opencontainers.image.title="millrace-mlflow" org.opencontainers.image.description="MLflow with PostgreSQL and S3"
COPY --from=mlflow-environment /opt/venv /opt/venv
EXPOSE 5000
CMD ["python", "-m", "mlflow", "server", "--help"]


# Features on Spark: the driver of a step in client mode, and its executors. Java comes from Debian.
FROM installer AS spark-driver-environment
COPY requirements/images/spark-driver.txt /requirements/spark-driver.txt
RUN --mount=type=cache,target=/var/cache/uv install-lock spark-driver

FROM runtime AS spark-driver
LABEL org.opencontainers.image.title="millrace-spark-driver" org.opencontainers.image.description="build_features on Spark"
USER 0
# Java's installation links a manual page, and a slim base has no folder for one.
RUN mkdir -p /usr/share/man/man1 && apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends default-jre-headless procps tini \
 && rm -rf /usr/share/man /var/lib/apt/lists/* /var/cache/* /var/log/*
USER 10001:10001
ENV JAVA_HOME=/usr/lib/jvm/default-java PYSPARK_PYTHON=/opt/venv/bin/python MILLRACE_SPARK_MASTER=local[*]
COPY --from=spark-driver-environment /opt/venv /opt/venv
COPY --from=pipeline-code /app /app
CMD ["python", "-m", "millrace.cli", "--help"]
