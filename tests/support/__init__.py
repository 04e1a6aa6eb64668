"""Helpers of the tests: models, oracles, fakes, a browser."""
