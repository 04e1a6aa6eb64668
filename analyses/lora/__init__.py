"""How far LoRA of each rank preserves the kernel of full fine-tuning, and which rank to take."""
