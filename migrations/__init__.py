"""Numbered SQL files, applied in order by `rttc_graph.integrations.postgres.migrate`."""
