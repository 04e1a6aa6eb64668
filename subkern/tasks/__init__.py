"""Tasks and their examples: the fourteen of the paper, files of one's own, folders, the hub."""
