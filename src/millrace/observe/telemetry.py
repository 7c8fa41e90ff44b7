"""The metrics of every server: names, labels and buckets in one place; dashboards, alerts and the rollout read them.

Conventions are Prometheus': seconds in histograms, `_total` counters, few label values. A model version is a label; an
entity or a request never is. A server is one process (more of them are more pods), so that what it shows at
/metrics is whole; Prometheus adds pods up. Knative's queue proxy gives `revision_*` on a cluster; the local runtime
gives the same names for the same facts, so that whoever reads them need not know the home.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

LATENCY_BUCKETS_S: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
"""Fine around what an answer takes (1 to 25 ms), coarse up to the deadline."""

SCORE_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8,
    0.9, 1.0,
)  # fmt: skip
"""Scores are mostly small: the population stability index needs several buckets where the mass is."""

QUANTITY_BUCKETS: Final = (0.0, *(round(0.01 * 1.25**step, 4) for step in range(73)))
"""Buckets of any unit, to 95,000: neighbours are joined until each holds a part of the mass."""

# Every server
REQUESTS = Counter("millrace_requests", "Answers of a server", ["server", "route", "code"])
REQUEST_SECONDS = Histogram(
    "millrace_request_seconds",
    "From a request's last byte to its answer",
    ["server", "route"],
    buckets=LATENCY_BUCKETS_S,
)
SPANS_LOST = Counter("millrace_spans_lost", "Spans that the trace collector did not take")

# Predictor, and a transformer that holds the model itself
BATCH_ROWS = Histogram(
    "millrace_batch_rows", "Rows per run of the graph", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
)
QUEUE_ROWS = Gauge("millrace_queue_rows", "Rows that wait for the graph")
PREDICTOR_ROWS = Counter("millrace_predictor_rows", "Scored rows, by the stage that answered", ["stage"])
MODEL_RELOADS = Counter("millrace_model_reloads", "Times the model was loaded again", ["result"])

# Predictor, and the transformer, which also knows what its workload wants of an answer
MODEL_FAULTS = Counter(
    "millrace_model_faults",
    "Answers of a model that were no scores: not finite, out of range, of another shape, for other features",
    ["model_name", "model_version"],
)

# Transformer
PREDICTIONS = Counter("millrace_predictions", "Scored events", ["model_name", "model_version", "decision", "degraded"])
SCORES = Histogram("millrace_score", "Scores given", ["model_name", "model_version"], buckets=SCORE_BUCKETS)
QUANTITIES = Histogram(
    "millrace_quantity", "Quantities predicted", ["model_name", "model_version"], buckets=QUANTITY_BUCKETS
)
SCORES_REPEATED = Counter(
    "millrace_scores_repeated", "Scores equal to the one before of the same version", ["model_name", "model_version"]
)
UNSEEN = Counter(
    "millrace_unseen", "Answers about an entity that no event was known of; of all: millrace_predictions", ["entity"]
)
PREDICTOR_SECONDS = Histogram(
    "millrace_predictor_seconds",
    "The transformer's call of the predictor",
    ["model_version"],
    buckets=LATENCY_BUCKETS_S,
)
PREDICTOR_FAILURES = Counter("millrace_predictor_failures", "Calls of the predictor that failed, retried ones included")
LOOKUP_SECONDS = Histogram("millrace_lookup_seconds", "Online store lookups", buckets=LATENCY_BUCKETS_S)
LOOKUP_FAILURES = Counter("millrace_lookup_failures", "Lookups that the online store did not answer in time")
BREAKER_OPEN = Gauge("millrace_breaker_open", "1 while the online store is not asked, after repeated failures")
UNPUSHED = Gauge(
    "millrace_unpushed_entities",
    "Entities with scored events that Feast's own lookups do not give yet, of all replicas",
)
SHADOW_DROPPED = Counter("millrace_shadow_dropped", "Events that the shadow was too slow to take")
SHADOW_FAILURES = Counter("millrace_shadow_failures", "Events that the shadow failed to score")
CHALLENGER_FALLBACKS = Counter(
    "millrace_challenger_fallbacks", "Events of the A/B test's challenger that the champion scored"
)
DEADLINES_EXCEEDED = Counter("millrace_deadlines_exceeded", "Requests that were not answered within their deadline")

# Prediction log
STREAM_FIGURES: Final = {
    "oldest_s": ("millrace_stream_lag_seconds", "Age of the oldest event that a group has not taken; 0: none waits"),
    "events": ("millrace_stream_lag_events", "Events that a group has not taken"),
    "refused": ("millrace_stream_refused_events", "Events that a group has set aside"),
}
"""Gauges by topic and group, made when they are asked for (`millrace.events.watched`)."""
LOG_RECORDS = Counter(
    "millrace_log_records", "Events and labels: accepted, invalid, refused for lack of room", ["outcome"]
)
LOG_ROWS = Counter("millrace_log_rows", "New rows in the database; an event that came twice counts once", ["table"])
LOG_PRUNED = Counter("millrace_log_pruned", "Rows that went because they were too old", ["table"])
LOG_HALVES_EXPIRED = Counter("millrace_log_halves_expired", "Logged requests whose response never came")
LOG_WRITE_FAILURES = Counter(
    "millrace_log_write_failures", "Tries of the writer that the database or the stream did not take"
)
LOG_WRITE_SECONDS = Histogram("millrace_log_write_seconds", "One batch into the database", buckets=LATENCY_BUCKETS_S)
FEED_SILENT = Gauge("millrace_feed_silent_windows", "Windows of a range of ids that bring too little now", ["workload"])
FEED_WATCHED = Gauge("millrace_feed_watched", "1 where the feed has a usual volume to be compared with", ["workload"])

# Drift detector
DRIFT_P_VALUE = Gauge("millrace_drift_p_value", "Of the last window, per feature, score and decision", ["feature"])
DRIFT_STATISTIC = Gauge("millrace_drift_statistic", "Distance of the last window from the reference", ["feature"])
DRIFT_JOINT_P_VALUE = Gauge("millrace_drift_joint_p_value", "Of the last multivariate test")
DRIFT_DETECTED = Gauge("millrace_drift_detected", "1 while an episode of this kind lasts", ["kind"])
DRIFT_ALARMS = Counter("millrace_drift_alarms", "Episodes of drift that began", ["kind"])
DRIFT_WINDOWS = Counter("millrace_drift_windows", "Windows judged, by count or by time", ["window"])
DRIFT_EVENTS = Counter("millrace_drift_events", "Events: accepted, duplicate, ignored, refused", ["outcome"])
DRIFT_OUTLIERS = Counter("millrace_drift_outliers", "Requests that are outlying for the reference")
DRIFT_ONLINE_SIGNALS = Counter("millrace_drift_online_signals", "Signals of the online detector, where it is on")
DRIFT_JUDGE_SECONDS = Histogram("millrace_drift_judge_seconds", "Judging one window", buckets=LATENCY_BUCKETS_S)
DRIFT_LAST_EVENT = Gauge("millrace_drift_last_event_timestamp_seconds", "Event time of the newest row seen")
