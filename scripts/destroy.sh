#!/bin/sh
# Destroys a team's deployment. Terraform asks first, but for APPROVE=TEAM.
set -eu
cd "$(dirname "$0")/.."
. scripts/team.sh
known=$(ls .cosmicai/terraform 2>/dev/null | sed -n 's/\.tfstate$//p; s/\.outputs\.json$//p' | tr '\n' ' ')
[ -n "$team" ] || fail "which team? make destroy TEAM=team3 (deployed from here: $known)"
check_team
[ -f ".cosmicai/terraform/$team.tfstate" ] || [ -f "terraform/teams/$team.s3.tfbackend" ] ||
  fail "$team is not deployed from here: make destroy TEAM=… (deployed from here: $known)"
check_tfvars_exist
. scripts/state.sh
initialise
named=$(value_of var.team)
check_team_of_tfvars "$named"
with_state destroy $(without_question) -var-file="$vars" -var image_tag=none
rm -f "$states/$team.outputs.json"
