"""Which squares of a slide are scored, and where their pixels and scores are kept."""
