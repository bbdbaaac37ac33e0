#!/usr/bin/env bash
# Generates the gRPC stubs into the folder named by $1 (proto/python by default).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-proto/python}
python=${PYTHON_BIN:-.venv/bin/python}
mkdir -p "$out"
"$python" -m grpc_tools.protoc -I proto \
    --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
    proto/lunmesh/worker/v2/worker.proto
for package in lunmesh lunmesh/worker lunmesh/worker/v2; do
    : >"$out/$package/__init__.py"
done
