"""Documents, and what writes their tables from the code."""
