"""Strategies over a panel, the answers drawn so far: what to draw next, and which one to keep.

Pure decisions; may import the contracts and support, and knows no node, no model and no vendor.
"""
