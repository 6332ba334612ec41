# Where a team's Terraform state lies, for deploy.sh and destroy.sh: in .cosmicai/terraform/TEAM.tfstate, or in S3
# where terraform/teams/TEAM.s3.tfbackend says so (https://developer.hashicorp.com/terraform/language/backend/s3).
# Sourced from the project's root with $team set.
states="$PWD/.cosmicai/terraform"
backend="teams/$team.s3.tfbackend"
export TF_DATA_DIR="$states/$team"
mkdir -p "$TF_DATA_DIR"

root=terraform
if [ -f "terraform/$backend" ]; then
  # The root module by links, with a backend beside it: other teams' states stay where they are.
  root=".deploy-$team"
  mkdir -p "$root"
  for part in terraform/*.tf terraform/modules terraform/teams; do
    ln -sfn "../$part" "$root/"
  done
  printf 'terraform {\n  backend "s3" {}\n}\n' > "$root/backend.tf"
fi

initialise() {
  plugins=$("${PYTHON:-python3}" cosmicai/providers.py)
  [ "$root" = terraform ] || set -- -reconfigure "-backend-config=$backend"
  terraform -chdir="$root" init -input=false "$@" ${plugins:+"-plugin-dir=$plugins"}
}

with_state() { # COMMAND [OPTIONS]
  command=$1
  shift
  [ "$root" != terraform ] || set -- "-state=$states/$team.tfstate" "$@"
  terraform -chdir="$root" "$command" "$@"
}

# What the cosmicai command line goes by where the state is not here.
keep_outputs() {
  [ "$root" = terraform ] || with_state output -json > "$states/$team.outputs.json"
}
