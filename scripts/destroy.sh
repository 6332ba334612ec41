#!/bin/sh
# Destroys a team's deployment; Terraform asks first.
set -eu
cd "$(dirname "$0")/.."
team=${1:-}
state="$PWD/.cosmicai/terraform/$team.tfstate"
if [ -z "$team" ] || [ ! -f "$state" ]; then
  echo "error: which team? make destroy TEAM=team3 (deployed from here: $(ls .cosmicai/terraform 2>/dev/null | sed -n 's/\.tfstate$//p' | tr '\n' ' '))" >&2
  exit 1
fi
export TF_DATA_DIR="$PWD/.cosmicai/terraform/$team"
terraform -chdir=terraform destroy -state="$state" -var-file="teams/$team.tfvars" -var image_tag=none
