"""Programs that people start: the whole loop, submitting, comparing, scoring, backtests."""
