"""The images that pipeline steps run in; set MILLRACE_IMAGE when compiling to name another."""

import os

IMAGE = os.environ.get("MILLRACE_IMAGE", "millrace/pipeline:0.1.0")
FEATURES_IMAGE = os.environ.get("MILLRACE_FEATURES_IMAGE", IMAGE)
"""The image of build_features: spark-driver where Spark computes features."""
