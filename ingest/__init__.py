"""Floor 1: takes in what devices send, keeps it, and acknowledges only then."""
