"""The commands of `smartsite` that have grown families, one module each."""
