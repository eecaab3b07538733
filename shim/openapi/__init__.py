"""What this server says of itself to programs."""
