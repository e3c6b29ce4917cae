"""Spans of runs for OpenTelemetry: `run_traces` makes them, `span_export` sends them."""
