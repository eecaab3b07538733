"""The HTTP shim: OpenAI-style and classic image edits in, plain Triton inference calls out."""
