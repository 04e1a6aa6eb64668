"""From pairs of examples to a `Kernel`: rules, requests, engines and sweeps."""
