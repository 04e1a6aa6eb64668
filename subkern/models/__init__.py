"""What f is: a model with a readout of logits, loaded, checked and in a stated precision."""
