#!/bin/sh
# Creates .venv with the pinned dependencies, or returns at once if it is up to date.
set -eu
cd "$(dirname "$0")/.."

fail() {
  echo "error: $1" >&2
  exit 1
}

command -v "$PYTHON" >/dev/null 2>&1 || fail "Python is missing: install Python 3.11 or newer (python.org), or set PYTHON=…"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$PYTHON" --version) is too old: install Python 3.11 or newer (python.org), or set PYTHON=…"
command -v terraform >/dev/null 2>&1 ||
  fail "Terraform is missing: install Terraform 1.11 or newer (developer.hashicorp.com/terraform/install)"
version=$(terraform version 2>/dev/null | sed -n 's/^Terraform v\([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
set -- $version
[ "${1:-0}" -gt 1 ] || [ "${1:-0}" -eq 1 -a "${2:-0}" -ge 11 ] ||
  fail "Terraform ${1:-?}.${2:-?} is too old: install Terraform 1.11 or newer (developer.hashicorp.com/terraform/install)"

# Two at once: the second waits for the first (where there is a flock; its descriptor closes by itself).
if command -v flock >/dev/null 2>&1; then
  exec 9>.environment.lock
  flock 9
fi

needed=$("$PYTHON" --version; cat pyproject.toml setup.py requirements.lock; pwd)
needed=$(printf '%s' "$needed" | cksum)
kernels() { .venv/bin/python -m cosmicai.packaging kernels; } # at once when they are compiled already
[ -f .venv/.installed ] && [ "$(cat .venv/.installed)" = "$needed" ] && kernels && exit 0

echo "Installing the development environment into .venv (once, some minutes)…"
rm -rf .venv
"$PYTHON" -m venv .venv
if ! .venv/bin/pip install --quiet --disable-pip-version-check --constraint requirements.lock \
  --editable '.[test,docs]' 2>.venv/pip.log; then
  cat .venv/pip.log >&2
  fail "pip could not install the pinned packages; its message is above"
fi
printf '%s' "$needed" > .venv/.installed
kernels
