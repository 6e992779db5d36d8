"""What stands in for Triton's C++ ONNX Runtime backend where there is no container.

``server/backends/onnxruntime/model.py`` is what Triton loads; the work is done here, on numpy arrays,
so that it can be tested without a server.
"""
