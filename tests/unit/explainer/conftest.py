"""shap, imported once: it warns about its own dependencies while it is."""

from __future__ import annotations

import warnings

import pytest


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap  # noqa: F401
