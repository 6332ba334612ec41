# The team that deploy.sh and destroy.sh are about; sourced from the project's root with their first argument.
team=${1:-}

fail() {
  echo "error: $1" >&2
  exit 1
}

# The name becomes paths, options and names of resources. The pattern is that of terraform/variables.tf; expr
# answers how much of the name it matches, line breaks included.
check_team() {
  matched=$(LC_ALL=C expr "x$team" : 'x[a-z][a-z0-9-]\{0,30\}[a-z0-9]') || :
  [ "$matched" = $((${#team} + 1)) ] ||
    fail "TEAM is not a team's name: give 2 to 32 lower-case letters, digits and hyphens, beginning with a letter"
  [ -z "${APPROVE:-}" ] || [ "$APPROVE" = "$team" ] ||
    fail "APPROVE names another team than TEAM=$team: nothing was done"
}

# How the image is built, if that is not left to the tfvars.
check_build() {
  case "${BUILD:-docker}" in
    docker | codebuild) ;;
    *) fail "BUILD is neither docker nor codebuild: leave it out, or give BUILD=codebuild to build the image on AWS" ;;
  esac
}

check_tfvars_exist() {
  vars="teams/$team.tfvars"
  [ -f "terraform/$vars" ] || fail "terraform/$vars is missing: copy terraform/teams/example.tfvars and edit it"
}

# Terraform's question is skipped only for APPROVE=TEAM, never because of a variable that a CI system sets.
without_question() {
  [ "${APPROVE:-}" != "$team" ] || echo -auto-approve
}
