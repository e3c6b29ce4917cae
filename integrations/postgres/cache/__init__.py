"""The query-state cache in Postgres: recalled states, adapters and the lease of a training.

May import the database of the room above, protocols and support.
"""
