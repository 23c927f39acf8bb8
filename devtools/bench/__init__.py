"""Benchmarks of this project and its peers. They print figures and never assert a time."""
