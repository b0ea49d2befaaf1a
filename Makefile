# The tasks of the project; `make help` lists them.

SHELL := /bin/bash
.DELETE_ON_ERROR:

TARGET  := wasm32-wasip1
RELEASE := target/$(TARGET)/release
SOURCES := $(shell find src -type f) Cargo.toml Cargo.lock .cargo/config.toml

KWCTL   ?= kwctl
KUBECTL ?= kubectl
export KUBECTL

NEED_KWCTL = command -v $(KWCTL) >/dev/null || \
	{ echo "kwctl is missing; install it from https://github.com/kubewarden/kwctl/releases, or name it: KWCTL=path" >&2; exit 1; }

# The evaluator in releases: a static program for this machine's architecture.
ARCH   := $(shell uname -m)
STATIC := $(ARCH)-unknown-linux-musl
PROGRAM := vmfm-linux-$(patsubst aarch64,arm64,$(patsubst x86_64,amd64,$(ARCH)))

EXAMPLE ?= harvester
OUTPUT  ?= diff
COLOR   ?= auto

FUZZ_SECONDS ?= 1200
FUZZ_TARGETS ?=
MUTANTS      ?=

# A line of the policy's metadata.
metadata = $(shell sed -n 's/^  io.kubewarden.policy.$(1): //p' metadata.yml)

.PHONY: help
help: ## Lists the tasks
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: policy.wasm ## Builds the module and evaluates a virtual machine: EXAMPLE=harvester OUTPUT=diff
	@scripts/vmfm --output $(OUTPUT) --color $(COLOR) \
		$(addprefix --settings ,$(wildcard examples/$(EXAMPLE)/settings.yaml)) \
		$(addprefix --cluster ,$(wildcard examples/$(EXAMPLE)/cluster)) \
		examples/$(EXAMPLE)/vm.yaml

.PHONY: hook
hook: ## Shows what the vBIOS hook does to a sample domain
	@scripts/need python3 python3 "the hook is a program in Python" python3 --version
	@folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && \
		cp src/features/vbios_injection/hook.py "$$folder/onDefineDomain" && \
		VBIOS_DELIVERY=volume VBIOS_ON_FAILURE=fail VBIOS_DEVICES=node1-000000020 \
		python3 "$$folder/onDefineDomain" --vmi '{}' \
			--domain "$$(cat tests/data/domains/domain-one-hostdev.xml)" | \
		sed -n '/<hostdev/,/<\/hostdev>/p'

.PHONY: test
test: policy.wasm target/noop.wasm ## Checks the format, lints, and runs all tests, natively and through the module
	@scripts/test

.PHONY: fmt
fmt: ## Checks the format of the code
	cargo fmt --all --check

.PHONY: lint
lint: ## Lints the code
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: deny
deny: ## Checks the advisories, licenses, sources and duplicates of the crates, with cargo-deny; needs the network
	@command -v cargo-deny >/dev/null || \
		{ echo "cargo-deny is missing; install it with: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny --workspace --locked check --warn duplicate --hide-inclusion-graph
	cargo deny --locked --exclude-dev --target $(TARGET) check bans

.PHONY: generate
generate: ## Writes the files that follow from the declarations in the source
	cargo xtask generate

.PHONY: pictures
pictures: policy.wasm ## Draws the pictures of the README: the chart of docs/design.md, and what make run prints
	scripts/mermaid docs/design.md docs/pictures/flow.svg
	$(MAKE) --silent --no-print-directory run COLOR=always | \
		sed --regexp-extended 's/^(((\x1b\[[0-9;]*m)*[^\x1b]){103})[^\x1b]+/\1…/' | \
		cargo xtask terminal --command 'make run' docs/pictures/run.svg

.PHONY: bench
bench: policy.wasm target/noop.wasm ## Measures the module, and one that does nothing beside it
	cargo bench --quiet --locked --package vm-feature-manager-e2e --bench evaluate

.PHONY: fuzz
fuzz: policy.wasm ## Tries the properties with new inputs, and fuzzes each target for FUZZ_SECONDS; needs Rust's nightly toolchain
	PROPTEST_RNG_SEED=$$(date +%s) PROPTEST_CASES=50000 cargo test --release --locked --test policy properties
	COST_SECONDS=$(FUZZ_SECONDS) cargo test --profile bench --locked --package vm-feature-manager-e2e --test suite grown -- --nocapture
	scripts/fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)

.PHONY: mutants
mutants: ## Changes the policy in small ways, and lists the changes that no test notices
	scripts/cargo-tool mutants --output target $(MUTANTS)

.PHONY: e2e-tests
e2e-tests: annotated-policy.wasm ## Runs the annotated module in kwctl, and commands of the documents; needs kwctl, bats and jq
	@scripts/need bats bats "it runs the suite" bats --version
	@scripts/need jq jq "the suite reads JSON with it" jq --version
	bats e2e/e2e.bats e2e/documents.bats

.PHONY: form-tests
form-tests: policy.wasm ## Fills in the form of Rancher's Kubewarden extension, and checks what it saves; needs npm and GitHub
	@scripts/form-tests

.PHONY: cluster-tests
cluster-tests: ## Tests the installed policy in the cluster of KUBECONFIG; needs kubectl, bats, jq and helm
	@scripts/need bats bats "it runs the suite" bats --version
	@scripts/need jq jq "the suite reads JSON with it" jq --version
	bats --timing $(or $(CLUSTER_TESTS),e2e/cluster)

.PHONY: passthrough-tests
passthrough-tests: ## Gives devices and a ROM to a guest in an emulated machine; needs root and Debian: CASES='guest-address|own'
	@e2e/passthrough/run

annotated-policy.wasm: policy.wasm metadata.yml docs/usage.md ## Adds the metadata to the module, with kwctl
	@$(NEED_KWCTL)
	$(KWCTL) annotate --metadata-path metadata.yml --usage-path docs/usage.md --output-path $@ policy.wasm

.PHONY: publish
publish: annotated-policy.wasm ## Pushes the module to a registry of yours, with kwctl: REGISTRY=registry.example.com
	@test -n "$(REGISTRY)" || { echo "name the registry: make publish REGISTRY=registry.example.com" >&2; exit 1; }
	$(KWCTL) push $(KWCTL_PUSH) annotated-policy.wasm \
		registry://$(REGISTRY)/$(patsubst ghcr.io/%,%,$(call metadata,ociUrl)):v$(call metadata,version)

artifacthub-pkg.yml: metadata.yml questions-ui.yml ## Writes the package for Artifact Hub, with kwctl
	@$(NEED_KWCTL)
	$(KWCTL) scaffold artifacthub --output $@
	@# kwctl knows no logo, and recommends the chart that admission-controller has replaced.
	sed -i 's|^license: .*|&\nlogoPath: docs/pictures/icon.svg|; s|/kubewarden/kubewarden-controller$$|/kubewarden/admission-controller|' $@

.PHONY: vmfm
vmfm: $(PROGRAM).tar.gz ## Packs the evaluator as a static program with the module in it; needs musl-gcc and Rust's target for musl

$(PROGRAM).tar.gz: policy.wasm $(shell find vmfm/src -type f) vmfm/Cargo.toml Cargo.toml Cargo.lock
	@scripts/need musl-gcc musl-tools "the static program is linked with it" musl-gcc --version
	CC_$(subst -,_,$(STATIC))=musl-gcc cargo build --locked --profile dist --package vmfm --features embedded --target $(STATIC)
	rm -rf target/$(PROGRAM) && mkdir -p target/$(PROGRAM)/completions
	cp LICENSE target/$(STATIC)/dist/vmfm target/$(PROGRAM)
	ln -s vmfm target/$(PROGRAM)/kubectl-vmfm
	target/$(PROGRAM)/vmfm man >target/$(PROGRAM)/vmfm.1
	for page in cluster doctor; do target/$(PROGRAM)/vmfm man $$page >target/$(PROGRAM)/vmfm-$$page.1; done
	for shell in bash zsh fish; do target/$(PROGRAM)/vmfm completions $$shell >target/$(PROGRAM)/completions/vmfm.$$shell; done
	tar --create --gzip --file $@ --directory target $(PROGRAM)

policy.wasm: $(SOURCES) scripts/wasm-cargo scripts/wasm-shrink ## Builds the module
	scripts/wasm-cargo rustc --release --locked --lib --crate-type cdylib --target $(TARGET)
	scripts/wasm-shrink $(RELEASE)/vm_feature_manager_policy.wasm $@

target/noop.wasm: $(wildcard e2e/noop/src/*) Cargo.toml Cargo.lock .cargo/config.toml scripts/wasm-cargo scripts/wasm-shrink
	scripts/wasm-cargo rustc --release --locked --package vm-feature-manager-noop --target $(TARGET)
	scripts/wasm-shrink $(RELEASE)/vm_feature_manager_noop.wasm $@

.PHONY: clean
clean: ## Removes everything that is built
	cargo clean
	rm -f policy.wasm annotated-policy.wasm vmfm-linux-*.tar.gz
