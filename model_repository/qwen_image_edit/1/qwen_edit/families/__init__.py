"""What differs between the models that are served, one file a family."""
