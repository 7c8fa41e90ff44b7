"""Run trials until the budget is spent: train, report each epoch, give up what lags behind, remember everything.

A trial trains in this process with the worker's own loop and is judged by the best watched figure of the validation
rows; the test rows are not read. The study lives in SQLite, so a killed search goes on, first with the trial it lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from components.train.core import AnyTrainConfig, Progress, network_of, read_config, require_trainable
from components.train.parallel import Process, processes
from components.train.trainer import Trainer
from millrace.errors import ConfigError, MillraceError
from millrace.installed import load
from millrace.lake.atomic import exclusive, write_text
from millrace.lake.manifest import Manifest, content_id
from millrace.lake.training_set import TrainingSet
from millrace.observe.progress import log
from millrace.settings import Settings
from millrace.tabular.network import Watched
from search.record import Record
from search.space import Choices, SearchSpace, overrides, start_of

MAX_FAILURES: Final = 10
"""Trials that may fail in a row before the space is held to be wrong."""


class SearchFailed(MillraceError, RuntimeError):
    """No trial gives a model."""


class _OutOfTime(Exception):
    """The budget ended within a trial."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a search stands."""

    study: str
    trials: dict[str, int]
    """State → trials, of all sessions."""
    watched: Watched
    """The figure that is searched for, of the validation rows."""
    value: float | None
    """Of the best trial; None before the first is complete."""
    baseline: float | None
    """Of the values the search began with."""
    best: Path | None
    """YAML for `make run ARGS="--overrides …"`."""


def search(
    training_set: Manifest,
    space: SearchSpace,
    settings: Settings,
    *,
    minutes: float,
    base: Mapping[str, Any],
    trials: int = 0,
) -> Found:
    """Try hyper-parameters for `minutes`, or at most `trials` of them where not 0.

    Goes on where an earlier search of the same rows, space and base ended.
    Raises InvalidInput when the rows cannot be trained on, SearchFailed when no trial works, AlreadyRunning.
    """
    from optuna.storages import RDBStorage

    workload = load(training_set.workload)
    config = read_config(workload, **base)
    name = study_name(training_set, space, config)
    folder = settings.home / "search"
    with exclusive(folder / f".{name}.lock", f"search {name}"):
        training_set.verify()
        rows = TrainingSet(training_set)
        require_trainable(rows, config)
        storage = RDBStorage(f"sqlite:///{folder / 'studies.db'}", engine_kwargs={"connect_args": {"timeout": 60}})
        try:
            watched = network_of(workload, config).watched
            study = _study(storage, name, space, config, watched)
            record = Record(settings, name, training_set)
            _recover(study)
            record.recover()
            log("search", study=name, trials=len(study.trials), minutes=minutes)
            deadline = time.monotonic() + 60 * minutes
            with processes() as process:
                _run(study, Trial(rows, space, base, process, record, deadline), folder, trials)
            return _found(study, folder, watched)
        finally:
            storage.remove_session()
            storage.engine.dispose()


def study_name(training_set: Manifest, space: SearchSpace, config: AnyTrainConfig) -> str:
    """Rows, and a hash of what is tried and of what stays as it is."""
    return f"{training_set.id}-{content_id({'space': space.model_dump(), 'config': config.model_dump()})[:8]}"


@dataclass(frozen=True, slots=True)
class Trial:
    """How one trial is run."""

    rows: TrainingSet
    space: SearchSpace
    base: Mapping[str, Any]
    process: Process
    record: Record
    deadline: float

    def run(self, trial: Any) -> float:
        """Train to the end; the best watched figure. Raises TrialPruned, _OutOfTime, ConfigError."""
        import optuna

        config = read_config(self.rows.workload, **overrides(_draw(trial, self.space), self.base))
        with self.record.trial(trial, config) as told:
            require_trainable(self.rows, config)
            trainer = Trainer(self.rows, config, self.process)
            trainer.fit_preprocessing()
            watched = trainer.model.watched
            progress = Progress(config.patience, watched, [])
            for number in range(config.epochs):
                point = {"epoch": number} | trainer.epoch(number) | trainer.validate()
                if not math.isfinite(point["loss"]) or not math.isfinite(point[watched.name]):
                    raise ConfigError(f"trial {trial.number} diverged: {point}")
                progress.curve.append(point)
                told(point)
                trial.report(point[watched.name], number)
                if progress.finished or number == config.epochs - 1:
                    break
                if trial.should_prune():
                    raise optuna.TrialPruned
                if time.monotonic() > self.deadline:
                    raise _OutOfTime
        return progress.best[watched.name]


def _run(study: Any, trial: Trial, folder: Path, trials: int) -> None:
    """Trial after trial until the deadline; what works best so far is on disk after each."""
    import optuna

    State, failures, begun = optuna.trial.TrialState, 0, 0
    while time.monotonic() < trial.deadline and (not trials or begun < trials):
        begun += 1
        asked = study.ask()
        try:
            value = trial.run(asked)
        except optuna.TrialPruned:
            study.tell(asked, state=State.PRUNED)
            log("search: trial given up", trial=asked.number)
        except _OutOfTime:
            study.tell(asked, state=State.FAIL)
            study.enqueue_trial(asked.params)  # the next session begins with it
        except ConfigError as error:
            study.tell(asked, state=State.FAIL)
            log("search: trial failed", trial=asked.number, error=error)
            failures += 1
            if failures >= MAX_FAILURES:
                raise SearchFailed(f"{failures} trials failed in a row; the last: {error}") from error
            continue
        else:
            study.tell(asked, value)
            log("search: trial done", trial=asked.number, value=value, **asked.params)
            _write_best(study, trial, folder)
        failures = 0


def _study(storage: Any, name: str, space: SearchSpace, config: AnyTrainConfig, watched: Watched) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruners = {
        "none": optuna.pruners.NopPruner,
        "median": lambda: optuna.pruners.MedianPruner(space.startup_trials, space.warmup_epochs),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(max(space.warmup_epochs, 1), config.epochs),
    }
    known = [item.study_name for item in optuna.get_all_study_summaries(storage)]
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize" if watched.higher_is_better else "minimize",
        load_if_exists=True,
        pruner=pruners[space.pruner](),
    )
    # A fresh seed for each session: the same one would draw the first trials again.
    seed = config.seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=space.startup_trials, seed=seed)
    if name not in known:
        study.enqueue_trial(start_of(space, config))
    return study


def _recover(study: Any) -> None:
    """Trials that a killed search left running are tried again."""
    from optuna.trial import TrialState

    for lost in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(lost.number, state=TrialState.FAIL)
        study.enqueue_trial(lost.params)
        log("search: a killed trial is tried again", trial=lost.number)


def _draw(trial: Any, space: SearchSpace) -> dict[str, Any]:
    drawn: dict[str, Any] = {}
    for key, values in space.parameters.items():
        if isinstance(values, Choices):
            drawn[key] = trial.suggest_categorical(key, values.choices)
        elif values.whole:
            drawn[key] = trial.suggest_int(key, values.low, values.high, log=values.log)
        else:
            drawn[key] = trial.suggest_float(key, values.low, values.high, log=values.log)
    return drawn


def _best_path(study: Any, folder: Path) -> Path:
    return folder / f"{study.study_name}.yaml"


def _write_best(study: Any, trial: Trial, folder: Path) -> None:
    best = study.best_trial
    head = f"# Trial {best.number} of search {study.study_name}: {best.value:.4f} on the validation rows.\n"
    document = {"train": overrides(best.params, trial.base)}
    write_text(_best_path(study, folder), head + yaml.safe_dump(document, sort_keys=False))


def _found(study: Any, folder: Path, watched: Watched) -> Found:
    trials = study.get_trials(deepcopy=False)
    states: dict[str, int] = {}
    for item in trials:
        states[item.state.name.lower()] = states.get(item.state.name.lower(), 0) + 1
    values = {item.number: item.value for item in trials if item.state.name == "COMPLETE"}
    best = (max if watched.higher_is_better else min)(values.values(), default=None)
    path = _best_path(study, folder)
    first = trials[0].params if trials else {}
    same = [value for number, value in values.items() if trials[number].params == first]
    return Found(study.study_name, states, watched, best, next(iter(same), None), path if best is not None else None)
