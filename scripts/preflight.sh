#!/bin/sh
# Prints as JSON what would stop a team's deployment: `cosmicai doctor --team TEAM` shows it.
set -eu
cd "$(dirname "$0")/.."
team=${1:-}
. scripts/team.sh
check_team
check_build
check_tfvars_exist
. scripts/state.sh
initialise >&2
settings=$(settings)
printf '%s' "$settings" | "${PYTHON:-python3}" -m cosmicai.deploy.preflight --json
