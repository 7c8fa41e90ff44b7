"""Millrace: from raw events to live, watched predictions. What two or more deployables share."""

__version__ = "0.1.0"
