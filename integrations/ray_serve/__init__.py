"""Replicas on a Ray cluster: deployments of Ray Serve, and the parts that call them by handle.

Ray is imported where it is used, so that everything here can be imported without it.
"""
