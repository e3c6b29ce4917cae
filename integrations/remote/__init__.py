"""A knowledge base on another machine, reached over HTTP."""
