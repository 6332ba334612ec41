#!/bin/sh
# Destroys a team's deployment; Terraform asks first.
set -eu
cd "$(dirname "$0")/.."
team=${1:-}
known=$(ls .cosmicai/terraform 2>/dev/null | sed -n 's/\.tfstate$//p; s/\.outputs\.json$//p' | tr '\n' ' ')
if [ -z "$team" ] || [ ! -f ".cosmicai/terraform/$team.tfstate" ] && [ ! -f "terraform/teams/$team.s3.tfbackend" ]; then
  echo "error: which team? make destroy TEAM=team3 (deployed from here: $known)" >&2
  exit 1
fi
. scripts/state.sh
initialise
with_state destroy ${TF_IN_AUTOMATION:+-auto-approve} -var-file="teams/$team.tfvars" -var image_tag=none
rm -f "$states/$team.outputs.json"
