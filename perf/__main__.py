"""``python -m perf``: see `perf.cli`."""

import sys

try:
    from perf.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"error: measuring needs {error.name}: pip install 'lipstream[perf]'")

sys.exit(main())
