"""Steps and limits of a rollout, typed. What is held against them is `checks.py`; what follows, `decision.py`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from millrace.config import Config

Percent = Annotated[int, Field(ge=1, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]


class RolloutPolicy(Config):
    """Steps and limits; the defaults are those of `serving/rollout/rollout.yaml`."""

    steps: tuple[Percent, ...] = (10, 50, 100)
    """Canary traffic of each step; the last is 100 and means promoted."""
    min_sample: int = Field(default=500, ge=1)
    """Requests that each revision must have answered in a step before traffic grows."""
    min_sample_to_judge: int = Field(default=30, ge=1)
    """Requests below which no limit of a rate or a quantile counts as breached."""
    min_errors_to_judge: int = Field(default=3, ge=1)
    """So many failures of the canary are judged however few its requests are."""
    min_step_s: float = Field(default=60.0, ge=0)
    """A step lasts at least this long: a burst is not a sample of the day."""
    max_step_s: float = Field(default=3600.0, gt=0)
    """A step that is not decided by then is rolled back."""
    max_start_s: float = Field(default=300.0, gt=0)
    """A canary that is not ready by then is rolled back."""
    max_error_rate: Share = 0.01
    """Largest share of the canary's answers that may be 5xx."""
    max_error_rate_above_stable: Share = 0.005
    max_refusals_above_stable: Share = 0.02
    """Share of answers that are 4xx: canary minus stable."""
    max_unsound_answers: int = Field(default=0, ge=0)
    """Answers that are no scores (not finite, out of range, of another shape). More end the rollout, unless the stable
    revision gives as many."""
    max_deaths: int = Field(default=1, ge=0)
    """How often processes of the canary may end by themselves in a rollout, where the stable revision's do so less."""
    max_memory_ratio: float = Field(default=2.0, ge=1)
    """Largest ratio of what a process of the canary has in memory to what one of the stable revision has."""
    memory_slack_mb: float = Field(default=256.0, ge=0)
    """A larger ratio counts only where the difference is larger than this, too."""
    latency_quantile: float = Field(default=0.95, gt=0.5, lt=1)
    max_latency_ratio: float = Field(default=1.5, ge=1)
    """Largest ratio of the canary's quantile to the stable revision's."""
    latency_slack_ms: float = Field(default=5.0, ge=0)
    """A larger ratio counts only where the canary is slower by more than this, too."""
    max_score_psi: float = Field(default=0.2, gt=0)
    """Population stability index of scores; 0.2 is the customary line for a shift that matters."""
    max_repeats_above_stable: Share = 0.3
    """Share of scores that are equal to the one before: canary minus stable."""
    min_scores_to_judge_repeats: int = Field(default=10, ge=2)
    max_decision_rate_ratio: float = Field(default=2.0, gt=1)
    """Share of `review` decisions, canary over stable, or the other way round."""
    max_alert_precision_drop: Share = 0.1
    """Share of positives among flagged events whose label is known: stable minus canary."""
    min_labelled_alerts: int = Field(default=30, ge=1)
    """So many of each revision; where they say that the canary is right, its scores may be spread otherwise."""
    max_error_ratio: float = Field(default=1.1, gt=1)
    """Mean absolute error of a quantity where labels are known, canary over stable."""
    min_labelled_errors: int = Field(default=200, ge=2)

    @model_validator(mode="after")
    def _steps_grow(self) -> RolloutPolicy:
        if list(self.steps) != sorted(set(self.steps)) or len(self.steps) < 2 or self.steps[-1] != 100:
            raise ValueError(f"steps are {list(self.steps)}; wanted at least two growing percentages, the last 100")
        return self

    @property
    def max_duration_s(self) -> float:
        """The time, in seconds, by which every rollout has ended."""
        return self.max_start_s + self.max_step_s * len(self.steps)
