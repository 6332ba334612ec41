#!/bin/sh
# Deploys a team's bundle into the AWS account of the current credentials: image, zips, infrastructure.
# IMAGE=… uses an inference image that somebody else has built and pushed, BUILD=codebuild builds it on AWS instead of
# with Docker; APPROVE=TEAM skips the question, PREFLIGHT=skip the checks of the account before it.
set -eu
cd "$(dirname "$0")/.."
. scripts/team.sh

[ -n "$team" ] || fail "which team? make deploy TEAM=team3"
check_team
check_build
check_tfvars_exist
command -v aws >/dev/null 2>&1 || fail "the aws command line is missing: install AWS CLI v2"

. scripts/state.sh
apply() {
  with_values apply $(without_question) "$@"
}
initialise
values=$(value_of 'join(" ", concat([var.team, var.region, var.image_builder, var.inference.architecture, var.image.variant], var.image.extra_packages))')
read -r named region builder architecture variant packages <<EOF
$values
EOF
check_team_of_tfvars "$named"
check_names_in_groups
if [ "${PREFLIGHT:-}" != skip ]; then
  settings=$(settings)
  printf '%s' "$settings" | "${PYTHON:-python3}" -m cosmicai.deploy.preflight
fi

if [ -n "${IMAGE:-}" ]; then
  apply -var "image_uri=$IMAGE"
  keep_outputs
  exit 0
fi

# What the image needs before it can be built.
before="-target=module.registry"
if [ "$builder" = codebuild ]; then
  before="$before -target=module.storage -target=module.image_builder"
else
  docker buildx version >/dev/null 2>&1 ||
    fail "docker buildx is missing: install Docker, build the image on AWS (BUILD=codebuild), or pass one that exists: make deploy TEAM=$team IMAGE=URI"
fi
tag=$("${PYTHON:-python3}" -m cosmicai.packaging tag --extra "$packages")
apply -var "image_tag=$tag" $before
repository=$(with_state output -raw repository_url)

image="$repository:$tag-$architecture-$variant" # as terraform/main.tf names it
is_pushed() {
  answer=$(aws ecr describe-images --region "$region" --repository-name "${repository#*/}" \
    --image-ids "imageTag=${image##*:}" 2>&1) && return 0
  case "$answer" in
    *ImageNotFoundException*) return 1 ;;
    *) fail "$answer" ;;
  esac
}
build_by_docker() {
  platform=linux/arm64
  [ "$architecture" = arm64 ] || platform=linux/amd64
  aws ecr get-login-password --region "$region" | docker login --username AWS --password-stdin "${repository%%/*}"
  docker buildx build --platform "$platform" --provenance=false -f docker/inference.Dockerfile \
    --build-arg "VARIANT=$variant" --build-arg "EXTRA_PACKAGES=$packages" \
    -t "$image" --push .
}
build_by_codebuild() {
  values=$(value_of 'join(" ", [one(module.image_builder[*].project_name), module.storage.bucket_name])')
  read -r project bucket <<EOF
$values
EOF
  "${PYTHON:-python3}" -m cosmicai.deploy.codebuild --region "$region" --project "$project" --bucket "$bucket" \
    --image "$image" --architecture "$architecture" --variant "$variant" --packages="$packages"
}
is_pushed || "build_by_$builder"
apply -var "image_tag=$tag"
keep_outputs
