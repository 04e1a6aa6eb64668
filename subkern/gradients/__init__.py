"""From an example to its gradient as factors, recorded once and contracted for every pair."""
