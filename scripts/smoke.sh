#!/bin/sh
# Proves on an account that this version works: deploys a team, runs real galaxies, compares their redshifts with those of
# this machine, and destroys everything again, also when something fails. It makes a deployment of its own and never touches
# one that is there. APPROVE=TEAM leaves out the question, IMAGE=… uses an image that exists, PREFLIGHT=skip leaves out what
# is asked of the account before.
set -eu
cd "$(dirname "$0")/.."
. scripts/team.sh
[ -n "$team" ] || fail "which team? make smoke TEAM=smoke"
check_team
check_tfvars_exist
command -v aws >/dev/null 2>&1 || fail "the aws command line is missing: install AWS CLI v2"
. scripts/state.sh
initialise >&2
values=$(value_of 'join(" ", [var.team, var.region, local.bucket_name])')
read -r named region bucket <<EOF
$values
EOF
check_team_of_tfvars "$named"

own="a smoke test makes a deployment of its own and destroys it: copy terraform/$vars under another name, set team to that name, and give it as TEAM"
there=$(addresses)
# Terraform's warnings are among the lines, too.
if [ -f "$states/$team.outputs.json" ] || printf '%s\n' "$there" | grep -Eq '^(module|data|[a-z0-9_]+)\.[a-z]'; then
  fail "$team is deployed; $own"
fi
held=$(aws s3api head-bucket --region "$region" --bucket "$bucket" 2>&1) &&
  fail "the bucket $bucket exists; $own"
case "$held" in
  *404* | *"Not Found"*) ;;
  *) fail "cannot find out whether the bucket $bucket exists: $held" ;;
esac

echo "This deploys $team in $region, runs 120 galaxies on three ranks, and destroys it: about 0.02 USD, and less than 1 USD"
echo "if the deployment is left for a day. It takes about 15 minutes."
if [ "${APPROVE:-}" != "$team" ]; then
  printf 'Type %s to start: ' "$team"
  read -r typed || typed=""
  [ "$typed" = "$team" ] || fail "nothing was done"
fi
export APPROVE="$team" # for the scripts below

work=$(mktemp -d)
deployed=no
clean_up() {
  status=$?
  trap - EXIT INT TERM HUP
  if [ "$deployed" = yes ] && { [ -f "$states/$team.tfstate" ] || [ -f "terraform/$backend" ]; }; then
    echo "destroying $team …"
    # What this test itself has put there: the bucket did not exist before.
    aws s3 rm --quiet --recursive --region "$region" "s3://$bucket" || :
    if ! sh scripts/destroy.sh "$team"; then
      echo "error: $team could not be destroyed, and may cost money: make destroy TEAM=$team" >&2
      [ "$status" != 0 ] || status=1
    fi
  fi
  rm -rf "$work"
  [ "$status" != 0 ] || echo "smoke test passed: $team was deployed, ran and was destroyed"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

cosmicai data dc2 "$work/partitions" --galaxies 120 --partition-mb 1 --seed 3
# int8 is left out: it may differ from one instruction set to another.
cosmicai infer "$work/partitions" --out "$work/expected" --precision float32
deployed=yes
sh scripts/deploy.sh "$team"
cosmicai data upload "$work/partitions" smoke --team "$team"
printf '{"data_prefix": "smoke", "result_path": "results/smoke", "precision": "float32"}' > "$work/payload.json"
cosmicai run "$work/payload.json" --team "$team" --name smoke
cosmicai results smoke --team "$team" --out "$work/results"
"${PYTHON:-python3}" scripts/compare.py "$work/results" "$work/expected"
