"""Kills, damage, full disks and rivals: what the program leaves, and how the next run takes it."""
