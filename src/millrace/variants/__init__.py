"""A workload under another name, and with columns of its own: what makes it so is a small document.

`document.py` says what a document may say and where a home keeps it, `variant.py` makes the workload of it.
"""
