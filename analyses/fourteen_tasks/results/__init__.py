"""``subkern figures``: the paper's tables, figures and report, from a study's saved table alone."""
