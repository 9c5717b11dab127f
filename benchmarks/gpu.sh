#!/usr/bin/env bash
# What only a GPU can settle about cxrdali, in one command: gpu.jsonl and gpu.md in the folder where it is started.
#
#   benchmarks/gpu.sh [SECTION ...] [--out FILE] [--seconds LIMIT] [--save]      # docs/gpu.md says how to read them
#
# Takes the first Python that has all it needs: $PYTHON, the one of `make`, python3.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
for python in "${PYTHON:-}" "$root/.venv/bin/python" python3; do
  if [ -n "$python" ] && "$python" -c "import nvidia.dali, psutil, pytest, timm, torch" 2>/dev/null; then
    exec "$python" -m benchmarks.gpu "$@"
  fi
done
echo "no Python here has DALI, torch, timm, psutil and pytest: pip install -e '.[test]' in $root" >&2
exit 1
