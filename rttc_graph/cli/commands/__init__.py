"""The commands of `rttc`, one module for each group: flags and printing.

May import everything; whole jobs belong into `rttc_graph.jobs`.
"""
