#!/bin/sh
# Deploys a team's bundle into the AWS account of the current credentials: image, zips, infrastructure.
# IMAGE=… uses an inference image that somebody else has built and pushed; APPROVE=TEAM leaves out the question,
# PREFLIGHT=skip what is asked of the account before.
set -eu
cd "$(dirname "$0")/.."
. scripts/team.sh

[ -n "$team" ] || fail "which team? make deploy TEAM=team3"
check_team
check_tfvars_exist
command -v aws >/dev/null 2>&1 || fail "the aws command line is missing: install AWS CLI v2"

. scripts/state.sh
apply() {
  with_state apply $(without_question) -var-file="$vars" "$@"
}
initialise
values=$(value_of 'join(" ", concat([var.team, var.inference.architecture, var.image.variant], var.image.extra_packages))')
read -r named architecture variant packages <<EOF
$values
EOF
check_team_of_tfvars "$named"
check_names_in_groups
if [ "${PREFLIGHT:-}" != skip ]; then
  settings=$(settings)
  printf '%s' "$settings" | "${PYTHON:-python3}" cosmicai/deploy/preflight.py
fi

if [ -n "${IMAGE:-}" ]; then
  apply -var "image_uri=$IMAGE"
  keep_outputs
  exit 0
fi

docker buildx version >/dev/null 2>&1 ||
  fail "docker buildx is missing: install Docker, or pass an image that exists: make deploy TEAM=$team IMAGE=URI"
tag=$("${PYTHON:-python3}" -m cosmicai.packaging tag --extra "$packages")
apply -var "image_tag=$tag" -target=module.registry
repository=$(with_state output -raw repository_url)
region=$(echo "$repository" | cut -d. -f4)
platform=linux/arm64
[ "$architecture" = arm64 ] || platform=linux/amd64

image="$repository:$tag-$architecture-$variant" # as terraform/main.tf names it
is_pushed() {
  told=$(aws ecr describe-images --region "$region" --repository-name "${repository#*/}" \
    --image-ids "imageTag=${image##*:}" 2>&1) && return 0
  case "$told" in
    *ImageNotFoundException*) return 1 ;;
    *) fail "$told" ;;
  esac
}
if ! is_pushed; then
  aws ecr get-login-password --region "$region" | docker login --username AWS --password-stdin "${repository%%/*}"
  docker buildx build --platform "$platform" --provenance=false -f docker/inference.Dockerfile \
    --build-arg "VARIANT=$variant" --build-arg "EXTRA_PACKAGES=$packages" \
    -t "$image" --push .
fi
apply -var "image_tag=$tag"
keep_outputs
