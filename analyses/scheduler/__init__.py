"""A study as cells that wait for each other: what they are, who keeps and computes them."""
