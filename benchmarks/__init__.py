"""Time subkern against the paper's algorithm and against explicit Jacobian rows.

``python -m benchmarks --out runs/bench`` (or ``make bench``) runs all three in one process, on the
same examples, taking turns; see ``docs/results/benchmarks.md`` for what is measured and how.
"""
