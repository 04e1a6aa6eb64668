"""Many kernels of one capture: ranks and targets of LoRA, dimensions, update rules."""
