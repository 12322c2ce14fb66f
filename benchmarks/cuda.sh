#!/usr/bin/env bash
# Everything that needs an NVIDIA card, in less than eight minutes and without a network: bash benchmarks/cuda.sh [--out FILE]
# Nothing needs to be installed but what minillm and its tests import. See benchmarks/cuda.py.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m benchmarks.cuda "$@"
