"""What the objects of a runtime share: files, ports, Envoy, and how many processes a role has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from serving.local.data_plane import DataPlane
from serving.local.ports import Ports
from serving.local.state import Place


@dataclass(frozen=True, slots=True)
class Around:
    """What the services of a runtime share."""

    place: Place
    ports: Ports
    data_plane: DataPlane
    changed: Callable[[], None]
    """Called when a state has changed: routes and the state's file follow."""
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Role → how many processes of it run; 1 where none is said."""
