"""A catalog to look at, and a day of visitors for it."""
