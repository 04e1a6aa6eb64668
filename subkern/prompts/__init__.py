"""Examples become tokens: templates, label words, encoders, how prompts are chosen and varied."""
