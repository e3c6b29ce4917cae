"""The only place that knows a vendor; each sub-package implements `rttc_graph.protocols`."""
