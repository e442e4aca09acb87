"""GPU code without a GPU: CuPy on simulated devices in the cupy session, PyTorch on shadow devices in the torch session.

Both run in environments of their own, so each session collects its own files here, and the others none.
"""

import os
from pathlib import Path

_BACKEND = os.environ.get("TAYLORSHIFT_TEST_BACKEND", "numpy")
collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if f"test_{_BACKEND}" not in path.name]

if _BACKEND == "cupy":
    from gpu_without_gpu.activate import activate

    activate(devices=2)
