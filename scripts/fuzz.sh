#!/bin/sh
# Fuzzes the targets of tests/fuzz, all or those named after SECONDS, in an environment that also has atheris.
set -eu
cd "$(dirname "$0")/.."
folder=.cosmicai/atheris
if [ ! -d "$folder" ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder" atheris==3.0.0
fi
[ -n "${1:-}" ] || set -- 600
PYTHONPATH="$folder" exec .venv/bin/python -m tests.fuzz.campaign "$@"
