"""Which prompt fine-tunes best, and does the kernel tell before any training?"""
