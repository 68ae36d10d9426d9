"""Recipes from end to end; each runs as a file or a module: ``python pipelines/demo.py``, ``-m pipelines.demo``."""
