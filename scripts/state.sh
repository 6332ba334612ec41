# Where a team's Terraform state is, for deploy.sh and destroy.sh: in .cosmicai/terraform/TEAM.tfstate, or in S3
# where terraform/teams/TEAM.s3.tfbackend says so (https://developer.hashicorp.com/terraform/language/backend/s3).
# Sourced from the project's root with $team set.
states="$PWD/.cosmicai/terraform"
backend="teams/$team.s3.tfbackend"
export TF_DATA_DIR="$states/$team"
mkdir -p "$TF_DATA_DIR"
[ ! -f "$states/$team.outputs.json" ] || [ -f "terraform/$backend" ] ||
  fail "the state of $team is in S3, and terraform/$backend, which says where, is missing: restore that file"

root=terraform
if [ -f "terraform/$backend" ]; then
  # The root module by links, with a backend next to it: other teams' states stay where they are.
  root=".deploy-$team"
  mkdir -p "$root"
  for part in terraform/*.tf terraform/.terraform.lock.hcl terraform/modules terraform/teams; do
    ln -sfn "../$part" "$root/"
  done
  printf 'terraform {\n  backend "s3" {}\n}\n' > "$root/backend.tf"
fi

# The provider is installed only if its hash is in terraform/.terraform.lock.hcl.
initialise() {
  plugins=$("${PYTHON:-python3}" cosmicai/deploy/providers.py)
  [ "$root" = terraform ] || set -- -reconfigure "-backend-config=$backend"
  terraform -chdir="$root" init -input=false -lockfile=readonly "$@" ${plugins:+"-plugin-dir=$plugins"}
  [ "$root" = terraform ] || [ ! -f "$states/$team.tfstate" ] || move_state
}

# Into S3, once. Terraform refuses to overwrite a newer state, or that of another deployment.
move_state() {
  local_state="$states/$team.tfstate"
  held=$("${PYTHON:-python3}" -c 'import json, sys; print(len(json.load(open(sys.argv[1]))["resources"]))' "$local_state")
  if [ "$held" != 0 ]; then
    terraform -chdir="$root" state push "$local_state" ||
      fail "$local_state was not moved to S3, because another state is there; keep one of the two: remove the file, or give another key in terraform/$backend"
    echo "moved to S3: the state of $team; a copy is in $local_state.moved"
  fi
  mv "$local_state" "$local_state.moved"
}

with_state() { # COMMAND [OPTIONS]; the command may have two words
  command=$1
  shift
  [ "$root" != terraform ] || set -- "-state=$states/$team.tfstate" "$@"
  terraform -chdir="$root" $command "$@"
}

# The team's values, and BUILD over those in the tfvars.
with_values() { # COMMAND [OPTIONS]
  command=$1
  shift
  with_state "$command" "-var-file=$vars" ${BUILD:+-var "image_builder=$BUILD"} "$@"
}

# Of all that is deployed.
addresses() {
  listed=$(with_state "state list" 2>&1) || case "$listed" in
    *"No state file was found"*) listed="" ;;
    *) fail "$listed" ;;
  esac
  echo "$listed"
}

# Prints the value of a text expression over the variables of the tfvars, as Terraform itself reads them.
value_of() { # EXPRESSION
  answer=$(echo "$1" | tr '\n' ' ' | with_values console -var image_tag=none)
  # Terraform only warns of these, and their values would be lost.
  unknown=$(echo "$answer" | sed -n 's/.*declare a variable named "\([^"]*\)".*/\1/p' | sort -u | tr '\n' ' ')
  [ -z "$unknown" ] ||
    fail "terraform/$vars sets names that are not variables of this version: ${unknown% }; terraform/README.md lists them, in groups"
  value=$(echo "$answer" | sed -n 's/^"\(.*\)"$/\1/p')
  [ -n "$value" ] || fail "terraform console could not read terraform/$vars; its message is above"
  echo "$value"
}

# Terraform drops names in a group, such as `inference = { memroy_mb = 4096 }`, without a word. So the tfvars are read a
# second time, with variables that accept anything, and the names compared.
check_names_in_groups() {
  names=$(cat terraform/*.tf | sed -n 's/^variable "\([^"]*\)".*/\1/p')
  any="$TF_DATA_DIR/any"
  mkdir -p "$any"
  groups=""
  : > "$any/main.tf"
  for name in $names; do
    printf 'variable "%s" {\n  type    = any\n  default = null\n}\n' "$name" >> "$any/main.tf"
    groups="$groups $name = try(concat(keys(var.$name),
      flatten([for key, value in var.$name : try(formatlist(\"\${key}.%s\", keys(value)), [])])), []),"
  done
  known=$(value_of "base64encode(jsonencode({$groups }))")
  unknown=$(echo "join(\" \", flatten([for group, names in {$groups } :
    formatlist(\"\${group}.%s\", setsubtract(names, jsondecode(base64decode(\"$known\"))[group]))]))" | tr '\n' ' ' |
    TF_DATA_DIR="$any" terraform -chdir="$any" console -var-file="$PWD/terraform/$vars")
  [ "$unknown" = '""' ] ||
    fail "terraform/$vars sets names that are not variables of this version: $(echo "$unknown" | tr -d '"'); terraform/README.md lists them, in groups"
}

# What cosmicai/deploy/preflight.py asks the account about, as JSON.
settings() {
  is_deployed=false
  case "$(addresses)" in *module.storage.aws_s3_bucket.this*) is_deployed=true ;; esac
  value_of "base64encode(jsonencode({ is_deployed = $is_deployed, team = var.team, region = var.region,
    bucket = local.bucket_name, memory_mb = var.inference.memory_mb, has_host = local.own_host,
    subnet_id = var.rendezvous.subnet_id, max_concurrency = var.inference.max_concurrency,
    reserved_concurrency = var.inference.reserved_concurrency }))" | base64 -d
}

# All resources are named after the tfvars' team. Another team's would be changed or destroyed by this team's name.
check_team_of_tfvars() { # NAME
  [ "$1" = "$team" ] ||
    fail "TEAM=$team, but terraform/$vars has team = \"$1\": nothing was done; set team = \"$team\" there, or give TEAM=$1"
}

# What the cosmicai command line goes by where the state is not here.
keep_outputs() {
  [ "$root" = terraform ] || with_state output -json > "$states/$team.outputs.json"
}
