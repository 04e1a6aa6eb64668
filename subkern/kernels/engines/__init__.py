"""Ways to compute a kernel; each takes the same request."""
