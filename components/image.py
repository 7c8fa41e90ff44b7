"""The images that pipeline steps run in; set MILLRACE_IMAGE when compiling to name another."""

import os

IMAGE = os.environ.get("MILLRACE_IMAGE", "millrace/pipeline:0.1.0")
FEATURES_IMAGE = os.environ.get("MILLRACE_FEATURES_IMAGE", IMAGE)
"""Of build_features: the spark-driver image where Spark computes them."""
