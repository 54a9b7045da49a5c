"""Hypothesis measures no time here: on a busy machine that says nothing of the code."""

from hypothesis import settings

settings.register_profile("mqtt", deadline=None)
settings.load_profile("mqtt")
