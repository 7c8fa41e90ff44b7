"""Three numbers of a reading."""

from typing import Any, Final

FEATURE_SERVICE: Final = "machine_hours_v1"
FEATURE_NAMES: Final = ("heat", "load", "age")
HISTORY_CHANNELS: Final[tuple[str, ...]] = ()
VIEWS: Final[tuple[Any, ...]] = ()
REFRESHES_PER_DAY: Final = 1
