"""How many dimensions a task needs, by kernels of random subspaces, LoRA and other methods."""
