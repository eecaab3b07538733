"""What an engine tells about itself, and the Prometheus metrics that are made of it."""
