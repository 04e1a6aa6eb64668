"""Which learning rate, told before training and held against a sweep."""
