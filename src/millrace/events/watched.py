"""Metrics of a stream's groups: how far they are behind, and what they have set aside; asked when they are scraped.

Every reader of the stream shows every group, so that one that has died is seen too.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from millrace.errors import Unavailable
from millrace.events.stream import Stream
from millrace.observe.telemetry import STREAM_FIGURES


class Groups(Collector):
    """The figures of all groups; none while the stream is away."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def collect(self) -> Iterator[Metric]:
        families = {
            name: GaugeMetricFamily(*about, labels=["topic", "group"]) for name, about in STREAM_FIGURES.items()
        }
        try:
            for group in self._stream.groups():
                lag = self._stream.lag(group)
                for name, family in families.items():
                    family.add_metric(list(group), float(getattr(lag, name)))
        except Unavailable:
            return
        yield from families.values()

    def describe(self) -> Iterator[Metric]:
        """Nothing is asked when this is registered."""
        return iter(())


def show_groups(stream: Stream) -> None:
    """Show the groups for as long as the process lives."""
    REGISTRY.register(Groups(stream))
