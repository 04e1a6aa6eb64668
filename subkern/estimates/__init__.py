"""What a computation will take on this machine, from a few of its examples, before it is run."""
