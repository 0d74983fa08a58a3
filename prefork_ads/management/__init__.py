"""The catalog as people keep it: files, differences, one transaction."""
