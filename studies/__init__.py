"""What made the tables and pictures of the documents; ``python -m studies.fidelity --help`` and others."""
