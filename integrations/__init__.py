"""The only place that knows a vendor; each sub-package implements protocols of `rttc_graph.protocols`."""
