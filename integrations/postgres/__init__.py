"""Knowledge base and query-state cache in Postgres with pgvector, and an embedded server."""
