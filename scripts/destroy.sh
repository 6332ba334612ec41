#!/bin/sh
# Destroys a team's deployment. Terraform asks first, unless APPROVE=TEAM is given. A bucket that holds objects is kept, with
# all that protects it, unless the tfvars say storage.delete_results_on_destroy = true.
set -eu
cd "$(dirname "$0")/.."
. scripts/team.sh
known=$(ls .cosmicai/terraform 2>/dev/null | sed -n 's/\.tfstate$//p; s/\.outputs\.json$//p' | tr '\n' ' ')
[ -n "$team" ] || fail "which team? make destroy TEAM=team3 (deployed from here: $known)"
check_team
check_build
[ -f ".cosmicai/terraform/$team.tfstate" ] || [ -f "terraform/teams/$team.s3.tfbackend" ] ||
  fail "$team is not deployed from here: make destroy TEAM=… (deployed from here: $known)"
check_tfvars_exist
. scripts/state.sh
carry_out() { # COMMAND [OPTIONS]
  command=$1
  shift
  with_values "$command" $(without_question) -var image_tag=none "$@"
}
initialise
values=$(value_of 'join(" ", [var.team, var.region, tostring(var.storage.delete_results_on_destroy)])')
read -r named region deletes_results <<EOF
$values
EOF
check_team_of_tfvars "$named"
there=$(addresses)
is_there() { # ADDRESS
  printf '%s\n' "$there" | grep -Fq "$1"
}

holds_objects() { # BUCKET; old versions count
  command -v aws >/dev/null 2>&1 || fail "the aws command line is missing: install AWS CLI v2"
  held=$(aws s3api list-object-versions --region "$region" --bucket "$1" --max-items 1 \
    --query 'length([Versions, DeleteMarkers][])' --output text 2>&1) || case "$held" in
    *NoSuchBucket*) return 1 ;;
    *) fail "$held" ;;
  esac
  [ "$held" != 0 ]
}

if is_there module.storage.aws_s3_bucket.this; then
  bucket=$(value_of module.storage.bucket_name)
  if [ "$deletes_results" != true ] && holds_objects "$bucket"; then
    others=$(printf '%s\n' "$there" | sed -n 's/^\(module\.[a-z_]*\).*/\1/p; s/^\(aws_[a-z_]*\.[a-z_]*\).*/\1/p' | sort -u)
    set --
    for part in $others; do
      [ "$part" = module.storage ] || set -- "$@" "-target=$part"
    done
    [ $# -eq 0 ] || carry_out destroy "$@"
    echo "kept: the bucket $bucket, which holds objects, with its encryption, its policy and its public access block."
    echo "To delete it too: set storage = { delete_results_on_destroy = true } in terraform/$vars, and make destroy TEAM=$team again."
    exit 0
  fi
  # Terraform goes by the permission to delete objects that its state holds, not by that in the tfvars.
  carry_out apply -target=module.storage
fi
carry_out destroy
rm -f "$states/$team.outputs.json"
