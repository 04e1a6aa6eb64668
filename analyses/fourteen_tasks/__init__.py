"""Does the kernel predict what fine-tuning does? Every method on every task, as cells."""
