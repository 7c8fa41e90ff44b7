"""A server starts without what it never calls."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import sys
from serving.startup import skip_unused_imports
skip_unused_imports()
skip_unused_imports()
import serving.predictor.model
predictor = set(sys.modules)
import serving.transformer.model, feast
print(sorted({"torch", "kubernetes", "pipelines", "components"} & set(sys.modules)), "feast" in predictor)
try:
    import torch
except ModuleNotFoundError as error:
    print(error)
"""


def test_servers_load_neither_torch_nor_a_kubernetes_client_and_the_predictor_no_feast():
    done = subprocess.run(
        [sys.executable, "-O", "-W", "ignore", "-c", SCRIPT],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[] False", "torch is left out of servers (serving.startup)"]


def test_the_supervisor_loads_neither_kserve_nor_feast():
    script = "import sys, serving.local.supervisor; print(sorted({'kserve', 'feast', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=False)

    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
