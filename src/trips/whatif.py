"""What trips looked like when they began, in a form that can be changed; and the bad days that are played on them.

A change of one feature changes what follows from it, by `formulas.but`, the code that serves. Stresses are meant to
be worse than what will happen: the model has to bend, not break.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.features.what_if import Scored
from trips import formulas as f
from trips.features import FEATURE_NAMES
from trips.zones import BOROUGHS, NO_NUMBER

SLOWER: Final = 4 / 3


@dataclass(frozen=True, slots=True)
class Inputs(Scored):
    """What B trips looked like when they began; the label is in minutes."""

    @property
    def value(self) -> NDArray[Any]:
        """Nothing is at stake but time."""
        return self.label

    def column(self, name: str) -> NDArray[np.float32]:
        return self.features[:, FEATURE_NAMES.index(name)]

    def but(self, changes: Mapping[str, Any]) -> Inputs:
        """The same trips with these features, and what follows from them."""
        return replace(self, features=f.but(self.features, changes))


def inputs_of(data: Any, rows: NDArray[np.int64]) -> Inputs:
    """The unchanged inputs of rows[B] of a training set."""
    return Inputs(data.label[rows], data.features[rows])


def no_zone_state(inputs: Inputs) -> Inputs:
    """The online store knows no zone and no pair, only the city."""
    return inputs.but(dict.fromkeys((*f.PICKUP_PACES, *f.DROPOFF_PACES), 1.0) | f.UNSEEN_PAIR)


def no_state(inputs: Inputs) -> Inputs:
    """The online store is down: the transformer answers from defaults."""
    return no_zone_state(inputs).but(dict.fromkeys(f.CITY_PACES, 1.0))


def zone_never_seen(inputs: Inputs) -> Inputs:
    """Every trip begins in a zone that is on no list."""
    unknown = {"pickup_number": NO_NUMBER, "pickup_borough": len(BOROUGHS) - 1, "same_zone": 0.0}
    return inputs.but(unknown | dict.fromkeys(f.PICKUP_PACES, 1.0) | f.UNSEEN_PAIR)


def city_slower_by_a_third(inputs: Inputs) -> Inputs:
    """Snow: since a day everything takes a third longer, and the states say so."""
    paces = {name: inputs.column(name) * SLOWER for name in f.FRESH_PACES}
    return replace(inputs.but(paces), label=inputs.label * SLOWER)


def city_slower_unseen(inputs: Inputs) -> Inputs:
    """The city is slower and the states stand still, as when nobody renews them."""
    return replace(inputs, label=inputs.label * SLOWER)


def distances_10_percent_off(inputs: Inputs) -> Inputs:
    """Meters that count one way or the other, in turns."""
    factor = np.where(np.arange(len(inputs)) % 2 == 0, 0.9, 1.1)
    return inputs.but({"trip_miles": inputs.column("trip_miles") * factor})


_OF_ZONES: Final = (no_zone_state, no_state, zone_never_seen)
_OF_TRIPS: Final = (city_slower_by_a_third, city_slower_unseen, distances_10_percent_off)
STRESSES: Final = {stress.__name__: stress for stress in (*_OF_ZONES, *_OF_TRIPS)}
