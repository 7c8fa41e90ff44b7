"""How it is judged: by machine, hot and cool, on days without a load or a heat, and when all machines run longer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from machines.features import FEATURE_NAMES
from millrace.judge.rows import Columns

UNIT = "machine"
UNIT_NOUN = ("machine", "machines")
COLUMNS = Columns(unit="machine", label="hours")
LOG_COLUMNS = COLUMNS
LIMITS = Path(__file__).with_name("evaluate.yaml")
TITLES = {"machine_mean": "the machine's mean"}
PURPOSE = "Telling when a machine is due. It reads the feature service `{service}`."
CAVEATS = ("A machine that has just been bought has no past.",)


@dataclass(frozen=True)
class Inputs:
    features: np.ndarray
    label: np.ndarray

    def __len__(self):
        return len(self.label)

    def where(self, mask):
        return Inputs(self.features[mask], self.label[mask])

    def tensors(self, length):
        return self.features, None

    def without(self, name):
        features = self.features.copy()
        features[:, FEATURE_NAMES.index(name)] = 0
        return replace(self, features=features)


def what_if(data, rows):
    return Inputs(data.features[rows], data.label[rows].astype(np.float64))


def slices(rows, features):
    heat, age = (features[:, FEATURE_NAMES.index(name)] for name in ("heat", "age"))
    return {"cool": heat < 3, "hot": heat >= 3, "old": age > 0, "never": np.zeros(len(heat), bool)}


def no_load(inputs):
    return inputs.without("load")


def no_heat(inputs):
    return inputs.without("heat")


def wearing_a_third_slower(inputs):
    """All run longer and nothing tells the model: the truth changes, not what is read."""
    return replace(inputs, label=inputs.label * 4 / 3)


STRESSES = {stress.__name__: stress for stress in (no_load, no_heat, wearing_a_third_slower)}


def machine_mean(data, rows):
    train, machine = data.rows_of("train"), data.table(["machine"])["machine"].to_pylist()
    taken: dict[str, list[float]] = {}
    for row in train:
        taken.setdefault(machine[row], []).append(float(data.label[row]))
    anybody = float(data.label[train].mean())
    return np.array([np.mean(taken.get(machine[row], [anybody])) for row in rows])


BASELINES = {"machine_mean": machine_mean}
