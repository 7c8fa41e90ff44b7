"""Model versions: their folders, aliases, audit trail and lineage."""
