"""Benchmarks behind `smartsite bench`: what the service costs, measured on real parts."""
