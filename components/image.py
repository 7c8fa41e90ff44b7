"""The image that pipeline steps run in; set MILLRACE_IMAGE when compiling to name another."""

import os

IMAGE = os.environ.get("MILLRACE_IMAGE", "millrace/pipeline:0.1.0")
