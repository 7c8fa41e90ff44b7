"""KFP face of `gate`: judged artifacts in, nothing out; the step fails when one of them did not pass.

It leaves a refusal of the run then: compose it with the run's id, and with caching switched off.
"""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate_data(validation: dsl.Input[dsl.Artifact], run_id: str) -> str:
    """Block unless the data passed; returns the gates that passed."""
    from pathlib import Path

    from components.gate.core import require
    from millrace.judge.refusals import recorded
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    with recorded(settings().home, run_id):
        verdicts = require([Manifest.read(Path(validation.path), "validation")])
    return ", ".join(verdict.gate for verdict in verdicts)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate_model(evaluation: dsl.Input[dsl.Artifact], skew_check: dsl.Input[dsl.Artifact], run_id: str) -> str:
    """Block unless the model and its served features passed; returns the gates that passed."""
    from pathlib import Path

    from components.gate.core import require
    from millrace.judge.refusals import recorded
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    judged = [Manifest.read(Path(evaluation.path), "evaluation"), Manifest.read(Path(skew_check.path), "skew_check")]
    with recorded(settings().home, run_id):
        verdicts = require(judged)
    return ", ".join(verdict.gate for verdict in verdicts)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate_challenger(evaluation: dsl.Input[dsl.Artifact], run_id: str) -> str:
    """Block unless the model beats the champion that it was compared with."""
    from pathlib import Path

    from components.gate.core import require_gain
    from millrace.judge.refusals import recorded
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    with recorded(settings().home, run_id):
        verdict = require_gain(Manifest.read(Path(evaluation.path), "evaluation"))
    return verdict.gate
