"""Floor 2: violations with a life, who has to be told of them, and the telling."""
