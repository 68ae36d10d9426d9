"""How a classifier becomes dense: by its family's adapter, by features and head, or by a hook."""
