"""What lets a request in, from the connection's limits to the key."""
