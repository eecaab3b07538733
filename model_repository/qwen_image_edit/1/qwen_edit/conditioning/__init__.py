"""What the transformer is conditioned on: texts and reference pictures, encoded once."""
