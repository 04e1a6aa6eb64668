"""Random maps of R^p to R^d: their specification, theory, tiles and products."""
