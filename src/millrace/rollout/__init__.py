"""How a new version takes over: the policy, and the edits of an InferenceService. Pure functions."""
