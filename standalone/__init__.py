"""One-machine launcher: finds, starts, watches and stops tritonserver and the shim."""
