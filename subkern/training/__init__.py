"""Real fine-tuning in a subspace: settings, trainer, grid search, run folder."""
