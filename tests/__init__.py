"""The tests, each part on real ones."""
