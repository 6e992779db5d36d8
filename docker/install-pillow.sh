#!/usr/bin/env bash
# Install pillow-simd with AVX2 where it builds, Pillow where it does not. Both own the folder `PIL`: never both.
# usage: install-pillow.sh PYTHON
set -eu
python=$1
pip() { "$python" -m pip --quiet --quiet --disable-pip-version-check "$@"; }
constraints=$(cd "$(dirname "$0")/.." && pwd)/constraints.txt

if "$python" -c 'import importlib.metadata as m; m.version("pillow-simd")' 2>/dev/null; then exit 0; fi
pip uninstall --yes pillow
# A CFLAGS of our own takes the place of Python's, -O3 with it; without it resizing is 20 times slower.
flags="-O3"
if grep -qw avx2 /proc/cpuinfo; then flags="-O3 -mavx2"; fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# No cache: pip would take a wheel that it once built with other flags.
if CFLAGS="$flags ${CFLAGS-}" pip install --no-cache-dir --constraint "$constraints" --no-binary pillow-simd pillow-simd >"$log" 2>&1; then
  echo "pillow-simd installed (compiled with $flags)"
else
  reason=$(grep -E 'headers or library files could not be found|RequiredDependency|error:' "$log" | head -n 1 || true)
  echo "pillow-simd does not build here (${reason:-see pip}); Pillow is installed instead: pixels differ by 1 at most, resizing is slower" >&2
  pip install --constraint "$constraints" pillow
fi
