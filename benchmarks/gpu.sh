#!/usr/bin/env bash
# Everything that needs a GPU, in one go: the tests, the figures, and a profile of a training step.
#
#   benchmarks/gpu.sh [--small]       with PYTHON=python where there is no .venv
#
# Figures go to benchmarks/results/gpu.json and docs/speed.md, the profile to runs/gpu-profile.
# --small runs all of it in a minute, on a CPU too, and keeps nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

case "${1:-}" in
  --small)
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
    settings=(train.steps=8 train.batch=4)
    ;;
  "")
    out=benchmarks/results
    rm -rf runs/gpu-profile
    settings=(train.steps=12 train.batch=512 train.precision=bfloat16 train.compile=true)
    "$python" -m pytest -m gpu
    ;;
  *)
    echo "usage: benchmarks/gpu.sh [--small]" >&2
    exit 2
    ;;
esac

mkdir -p "$out"
"$python" benchmarks/gpu.py "$@" --json "$out/gpu.json"
profile=$([ "${1:-}" = --small ] && echo "$out/profile" || echo runs/gpu-profile)
"$python" -m braid train digits train.profile=true train.preview_every=0 "${settings[@]}" --out "$profile"
head -n 30 "$profile/profile/table.txt"
[ "${1:-}" = --small ] || "$python" docs/make_speed.py
