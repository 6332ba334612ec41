# Every target is a line or two; the work is in scripts/environment.sh and the cosmicai package.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
# tests/conftest.py says how many workers. Files in their order: the long ones of tests/integration before the units.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
# Users' words reach the recipes in the environment, as they are: neither make nor the shell executes them.
WORDS := PYTHON TEAM IMAGE BUILD APPROVE PREFLIGHT SECONDS
$(foreach word,$(WORDS),$(if $(value $(word)),$(eval override $(word) := $$(value $(word)))$(eval export $(word))))
.PHONY: environment demo test unit check docs prose audit fuzz package plan deploy destroy smoke clean

environment:
	@sh scripts/environment.sh

demo: environment  ## the main job end to end on the embedded AWS
	@$(BIN)/cosmicai demo

test: environment  ## every test, and which 20 were slowest
	@$(BIN)/python -m pytest $(PARALLEL) --durations 20

unit: environment  ## the tests of tests/unit alone
	@$(BIN)/python -m pytest $(PARALLEL) tests/unit

check: environment prose docs  ## formatting, lint, types, words, links, Terraform: what CI runs before the tests
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && terraform fmt -check -recursive terraform

docs: environment  ## the documentation as a site in build/site; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

prose: environment  ## spelling and phrases everywhere; long sentences in the documentation
	@$(BIN)/codespell && $(BIN)/python scripts/prose.py

audit:  ## checkov, hadolint, parliament and asl-validator over terraform/, docker/ and statemachine/
	@sh scripts/audit.sh

fuzz: environment  ## make fuzz SECONDS=600: each fuzzer for that many seconds
	@sh scripts/fuzz.sh "$$SECONDS"

package:  ## the zips that Terraform deploys
	@"$$PYTHON" -m cosmicai.packaging zips

plan: package  ## make plan TEAM=team3: what deploy would change
	@exec sh scripts/plan.sh "$$TEAM"

deploy: package  ## make deploy TEAM=team3: image, zips and infrastructure into the team's AWS account; BUILD=codebuild: without Docker
	@exec sh scripts/deploy.sh "$$TEAM"

destroy:  ## make destroy TEAM=team3; asks first, unless APPROVE=team3 is given
	@exec sh scripts/destroy.sh "$$TEAM"

smoke: environment package  ## make smoke TEAM=smoke: deploys, runs, checks the redshifts, destroys; under a dollar
	@PATH="$$PWD/$(BIN):$$PATH" exec sh scripts/smoke.sh "$$TEAM"

clean:  ## removes what can be made again, but never Terraform's state
	@sh scripts/clean.sh
