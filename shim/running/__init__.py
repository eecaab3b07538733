"""An edit → calls to Triton → pictures. No request is needed here."""
