"""From a model's name to a folder with its weights: the catalog, wheels, conversion.

May import errors and support; torch only in the conversion.
"""
