"""alibi-detect with what its pins would have given it: the only place that knows what 0.11.4 needs to import.

0.11.4 wants pydantic 1 and a function that SciPy has removed; `pydantic.v1` and a stand-in serve it. 0.13.0 needs
neither, and is imported the same way. Called where a detector is made: the import takes 5 to 10 s and 0.5 GB.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.metadata import version
from typing import Any, Final

from packaging.version import Version

LAST_APACHE: Final = Version("0.11.4")
"""Later releases are under BSL 1.1: no production use without a licence."""
SHIMMED: Final = ("pydantic", "pydantic.fields")


def load(module: str) -> Any:
    """`alibi_detect.<module>`, imported; raises ImportError where it is not installed."""
    if Version(version("alibi-detect")) <= LAST_APACHE and "alibi_detect" not in sys.modules:
        _import_old()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"alibi_detect.{module}")


def _import_old() -> None:
    """Import alibi-detect while `pydantic` means pydantic 1; afterwards it means what it meant before."""
    import pydantic.v1
    import scipy.stats

    if not hasattr(scipy.stats, "binom_test"):
        scipy.stats.binom_test = _binom_test
    modern = {name: sys.modules[name] for name in SHIMMED}
    # Whatever else alibi-detect pulls in must see the real one, so it is imported before.
    for name in ("transformers", "torch"):
        importlib.import_module(name)
    sys.modules |= {"pydantic": pydantic.v1, "pydantic.fields": pydantic.v1.fields}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("alibi_detect")
    finally:
        sys.modules.update(modern)


def _binom_test(x: int, n: int, p: float, alternative: str) -> float:
    from scipy.stats import binomtest

    return float(binomtest(x, n, p, alternative=alternative).pvalue)
