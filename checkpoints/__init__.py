"""What makes checkpoints: tiny ones with random weights, and the demo's, which is trained."""
