"""What `scripts/decisions` is made of."""
