"""Simulated sites and what truly happened on them; publishing, recording and replaying.

The sites are pure: the same seed and the same start give the same messages, byte for byte.
Only `publish` and `replay` touch a broker.
"""
