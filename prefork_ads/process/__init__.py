"""Processes: the master, what it supervises, and the children it forks."""
