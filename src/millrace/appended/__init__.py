"""Events that were appended to the online store after they were scored, beside the rows that Feast keeps.

Of each entity of a recent view its newest events lie in the store until others displace them, so that any replica
knows what another one answered, and a refill takes nothing away. The state of an entity is the newest of both: Feast's
row and what was appended (`records.merged`). `sqlite.py` is the laptop's store, `redis.py` the cluster's.
"""
