"""Three numbers of a reading; its age is how often the machine, and the machine in this hall, had been read."""

from typing import Final

import pyarrow as pa

from millrace.fields import View

FEATURE_SERVICE: Final = "machine_hours_v1"
FEATURE_NAMES: Final = ("heat", "load", "age")
HISTORY_CHANNELS: Final[tuple[str, ...]] = ()
VIEWS: Final = (
    View("machine_state", "machine", {"machine_readings": pa.int64()}, recent=False),
    View("post_state", "post", {"post_readings": pa.int64()}, recent=False),
)
REFRESHES_PER_DAY: Final = 4
