"""What the report says of the training beside its curve."""

from __future__ import annotations

from components.evaluate.training_curve import speed, training_plot


def test_a_starved_training_is_told_of_and_an_old_curve_is_not_guessed_at() -> None:
    curve = [{"samples_per_s": rows, "stall_share": 0.4} for rows in (1_000.0, 9_000.0, 8_000.0)]

    assert speed(curve) == " 8,000 rows a second, 40% of the time waiting for them."
    assert speed([*curve, {"samples_per_s": 9.0}]) == speed([]) == ""


def test_a_curve_without_a_watched_figure_shows_its_loss_alone() -> None:
    plot, caption = training_plot([{"epoch": epoch, "loss": 1.0 / (1 + epoch)} for epoch in range(3)])

    assert (len(plot.axes), caption) == (1, "Training loss.")
