"""The library inside Triton's Python models: wire contract, avatar pack, audio features, compositing."""
