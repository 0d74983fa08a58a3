"""What scripts/overload is made of: an open-loop load generator, the phases of a run, its report."""
