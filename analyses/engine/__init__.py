"""What studies share: settings, inputs, run folder, long table, classifiers, predictions."""
