#!/usr/bin/env bash
# Install pillow-simd with AVX2 where it builds, Pillow where it does not. Both own the folder `PIL`: never both.
# usage: install-pillow.sh PYTHON
set -eu
python=$1
pip() { "$python" -m pip --quiet --disable-pip-version-check "$@"; }
constraints=$(cd "$(dirname "$0")/.." && pwd)/constraints.txt

if "$python" -c 'import importlib.metadata as m; m.version("pillow-simd")' 2>/dev/null; then exit 0; fi
pip uninstall --yes pillow
flags=""
if grep -qw avx2 /proc/cpuinfo; then flags="-mavx2"; fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if CFLAGS="$flags ${CFLAGS-}" pip install --constraint "$constraints" --no-binary pillow-simd pillow-simd >"$log" 2>&1; then
  echo "pillow-simd installed (compiled with ${flags:-no special} flags)"
else
  reason=$(grep -E 'headers or library files could not be found|RequiredDependency|error:' "$log" | head -n 1 || true)
  echo "pillow-simd does not build here (${reason:-see pip}); Pillow is installed instead: the same pixels, slower resizing" >&2
  pip install --constraint "$constraints" pillow
fi
