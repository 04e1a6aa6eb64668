"""What may move: all parameters, groups of them, LoRA and other PEFT methods, random subspaces."""
