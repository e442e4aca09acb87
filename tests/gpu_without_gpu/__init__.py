"""Tests of GPU code on machines that have no GPU; see README.md. Nothing here is to be shipped.

CuPy on simulated devices: `activate` and `traffic`. PyTorch on a shadow of CUDA: `shadow_cuda`.
"""
