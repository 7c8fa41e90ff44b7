"""What every artifact is made of: manifests, the protocol by which a step makes one (`step`), atomic writes, the copy
in a bucket, and the code and instants that ids follow from.
"""

MANIFEST = "manifest.json"
"""The file of an artifact's folder that says what it holds; the last that is written and pushed."""
