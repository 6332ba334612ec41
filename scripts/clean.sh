#!/bin/sh
# Removes what can be made again. Terraform's state of real deployments, in .cosmicai/terraform, is kept: without
# it nobody could change or destroy what runs on AWS.
set -eu
cd "$(dirname "$0")/.."
if [ -x .venv/bin/cosmicai ] && .venv/bin/cosmicai local status >/dev/null 2>&1; then
  echo "error: the embedded AWS is running from here: stop it first with .venv/bin/cosmicai local down" >&2
  exit 1
fi
rm -rf .venv build results
[ ! -d .cosmicai ] || find .cosmicai -mindepth 1 -maxdepth 1 ! -name terraform -exec rm -rf {} +
[ ! -d .cosmicai/terraform ] || echo "kept: .cosmicai/terraform, the state of what is deployed on AWS"
