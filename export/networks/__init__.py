"""Network definitions, in PyTorch."""
