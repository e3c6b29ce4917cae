"""The graph and the knowledge base over HTTP: what `rttc serve` runs.

`rttc_graph.serving.http_app.create_app` makes the application for any ASGI server.
"""
