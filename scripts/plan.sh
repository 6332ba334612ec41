#!/bin/sh
# Shows what make deploy would change; changes nothing, and builds no image.
set -eu
cd "$(dirname "$0")/.."
team=${1:-}
. scripts/team.sh
[ -n "$team" ] || fail "which team? make plan TEAM=team3"
check_team
check_build
check_tfvars_exist
. scripts/state.sh
initialise
values=$(value_of 'join(" ", concat([var.team, var.region], var.image.extra_packages))')
read -r named region packages <<EOF
$values
EOF
check_team_of_tfvars "$named"
check_names_in_groups
# Terraform itself would say what its provider has tried, and no remedy.
if [ "${PREFLIGHT:-}" != skip ] && command -v aws >/dev/null 2>&1; then
  "${PYTHON:-python3}" -m cosmicai.deploy.preflight --credentials "$region"
fi
tag=$("${PYTHON:-python3}" -m cosmicai.packaging tag --extra "$packages")
with_values plan -input=false -lock=false -var "image_tag=$tag"
