"""A PostgreSQL server of the user's own: its programs, data folder, locks and process.

May import errors and support; nothing else of Postgres.
"""
