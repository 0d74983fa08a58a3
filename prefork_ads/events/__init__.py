"""Events: the line in which each logged request is kept and shipped."""
