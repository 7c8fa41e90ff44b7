"""How good a model is, and whether that is good enough: metrics, intervals, sequential tests, rules and verdicts.
Numbers in, numbers out; no I/O.
"""
