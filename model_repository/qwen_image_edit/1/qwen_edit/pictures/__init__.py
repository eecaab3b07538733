"""Picture files and masks on their way in, and pictures on their way out."""
