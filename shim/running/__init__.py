"""An edit → calls to Triton → pictures. Nothing here knows of HTTP requests."""
