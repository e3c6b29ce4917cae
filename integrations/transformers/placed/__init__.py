"""Models whose layers lie on several devices."""
