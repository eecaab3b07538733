"""The Qwen-Image-Edit engine behind the Triton model `qwen_image_edit`."""
