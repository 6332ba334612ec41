#!/bin/sh
# Prints the state machine as Terraform renders it, with names for the functions' ARNs.
set -eu
template="$(cd "$(dirname "$0")/.." && pwd)/statemachine/cosmicai.asl.json"
empty=$(mktemp -d)
trap 'rm -rf "$empty"' EXIT
function=arn:aws:lambda:us-east-1:123456789012:function
echo "base64encode(templatefile(\"$template\", {
  partition = \"aws\", initialize_arn = \"$function:initialize\", inference_arn = \"$function:inference\",
  rendezvous_arn = \"$function:rendezvous\", summarize_arn = \"$function:summarize\",
  batch = {
    queue_arn      = \"arn:aws:batch:us-east-1:123456789012:job-queue/ranks\",
    definition_arn = \"arn:aws:batch:us-east-1:123456789012:job-definition/rank:1\" },
  retry_seconds = 2, express_attempt_seconds = 240, most_answers = 10000, rendezvous_attempts = 60 }))" | tr '\n' ' ' |
  terraform -chdir="$empty" console | sed -n 's/^"\(.*\)"$/\1/p' | base64 -d
