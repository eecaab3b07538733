"""A request's body → one checked edit."""
