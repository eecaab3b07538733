"""What is done beside the steps, on threads of its own."""
