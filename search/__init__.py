"""Hyper-parameter search on the validation days."""
