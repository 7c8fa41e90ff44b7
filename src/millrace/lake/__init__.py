"""What every artifact is made of: manifests, atomic writes, the copy in a bucket, and the code and instants that ids
follow from.
"""
