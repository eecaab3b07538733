"""Who takes part in the next forward, in which order, and what that lets the others expect."""
