"""Where classifiers come from: each source fetches a model, what it takes and what is known of it, and no more."""
