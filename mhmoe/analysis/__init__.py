"""Traces -> numbers. Numpy only; every number that a page shows is computed here, once."""
