"""The SignGD kernel from packed signs: exact integer products of -1, 0 and 1."""
