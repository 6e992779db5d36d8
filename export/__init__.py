"""From a checkpoint and frames to something Triton serves."""
