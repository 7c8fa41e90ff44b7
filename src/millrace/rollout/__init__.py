"""How a new version takes over: limits, observations, checks, a decision, and what each does to an InferenceService."""
