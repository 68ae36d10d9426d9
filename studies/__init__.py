"""What made the tables and pictures of the documents; ``python -m studies.map_ideas --help`` and others."""
