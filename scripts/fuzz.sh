#!/bin/sh
# Runs each fuzzer of tests/fuzz for so many seconds, in an environment that has atheris besides.
set -eu
cd "$(dirname "$0")/.."
folder=.cosmicai/atheris
if [ ! -d "$folder" ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" atheris==3.0.0
fi
for target in payload key rank_info partition model rendezvous; do
  echo "fuzzing $target for ${1:-600} s"
  PYTHONPATH="$folder" .venv/bin/python -m tests.fuzz.fuzz "$target" "${1:-600}"
done
