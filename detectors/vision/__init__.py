"""Pictures in, boxes out: decoding, the motion gate, the model, and what it saw."""
