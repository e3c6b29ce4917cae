"""The knowledge base in Postgres: samples stored, indexed, searched and embedded anew.

May import the database of the room above, protocols and support.
"""
