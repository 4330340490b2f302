VENV ?= .venv
PYTHON ?= python3

BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed-for-development
DROP_IN ?= $(VENV)-drop-in
PEERS ?= $(VENV)-peers
INSTALLED_FOR_DOCS = $(VENV)/.installed-for-docs

.PHONY: setup demo study test drop-in fuzz chaos soak lint installs docs reference diagrams notebooks report-picture dist requirements bench \
	bench-peers

setup: $(INSTALLED)

# pip leaves satisfied requirements alone, so this is quick in an environment that has them.
$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

demo: $(INSTALLED)
	$(BIN)/python -m lightning_fed.radiology.synthetic data/wrists --images-per-site 400
	$(BIN)/lightning-fed simulate --config configs/fracture.yaml
	@echo
	@echo "This run as a page, with every round and what the coordinator learned of it:"
	@$(BIN)/lightning-fed report runs/fracture/store --html runs/fracture/report.html --open
	@echo "What to look at next:"
	@echo "  make study             the same hospitals, whole images, more rounds"
	@echo "  docs/tutorial.md       your own LightningModule on two sites, in ten minutes"
	@echo "  $(BIN)/lightning-fed init      a folder to start your own simulation, coordinator or site from"

# The demo at its full length.
study: $(INSTALLED)
	$(BIN)/python -m lightning_fed.radiology.synthetic data/wrists --images-per-site 400
	$(BIN)/lightning-fed simulate --config configs/fracture-study.yaml
	@$(BIN)/lightning-fed report runs/fracture-study/store --html runs/fracture-study/report.html --open

# A worker for each of two cores; a file's tests stay together, as they share what is slow to make.
test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Modules of other packages, in an environment of their own, which sees that of the package and its PyTorch.
drop-in: $(DROP_IN)/.installed
	LIGHTNING_FED_DROP_IN=1 OMP_NUM_THREADS=1 $(DROP_IN)/bin/python -m pytest tests/drop_in

# An environment that sees that of the package, and its PyTorch, with what a file asks for beside it.
define environment-beside
$(BIN)/python -m venv --clear $(@D)
$(BIN)/python -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" \
	> $$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/package.pth
$(@D)/bin/python -m pip install --prefer-binary --requirement $<
touch $@
endef

$(DROP_IN)/.installed: tests/drop_in/requirements.txt | $(INSTALLED)
	$(environment-beside)

SEEDS ?= 1-24
CHAOS = OMP_NUM_THREADS=1 PYTHONPATH=.:tests/federation:tests/chaos $(BIN)/python

# make chaos SEEDS=17 repeats one.
chaos: $(INSTALLED)
	$(CHAOS) tests/chaos/run.py --seeds $(SEEDS)
ifeq ($(SEEDS), 1-24)
	$(CHAOS) tests/chaos/kill_points.py
endif

soak: $(INSTALLED)
	$(CHAOS) tests/chaos/soak.py

fuzz: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tests/protocol/fuzz.py --inputs 10000000

# The built package with the oldest and the newest versions that it allows; needs the package registry.
installs: $(INSTALLED)
	$(BIN)/python tests/installs/run.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python requirements/audit.py

# The site, in build/docs: open build/docs/index.html, which needs no network. Anew each time, as Sphinx warns only of
# pages that it reads.
docs: $(INSTALLED_FOR_DOCS)
	rm -rf build/docs build/doctrees
	$(BIN)/python -m sphinx --builder html --conf-dir docs --doctree-dir build/doctrees --fail-on-warning --quiet \
		. build/docs

$(INSTALLED_FOR_DOCS): pyproject.toml | $(INSTALLED)
	$(BIN)/python -m pip install -e ".[docs]"
	touch $@

# docs/settings.md and docs/commands.md.
reference: $(INSTALLED)
	$(BIN)/python docs/reference.py

# The drawings of docs/pictures: a round, masked sums, the vote, roles and keys.
diagrams: $(INSTALLED)
	$(BIN)/python docs/diagrams.py

# examples/notebooks: each tutorial of docs/ as a notebook, run, with what it prints.
notebooks: $(INSTALLED)
	$(BIN)/python docs/notebooks.py

# docs/pictures/report.png: trains a small federation and photographs its page, with the system's Chromium.
report-picture: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python docs/report_picture.py

# What is published, in dist/. The same commit gives the same bytes: the time that archives note is the commit's.
dist: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct)
dist: $(INSTALLED)
	rm -rf dist build/again
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m build --no-isolation --outdir build/again
	cd dist && sha256sum * | tee ../build/again/SHA256SUMS
	cd build/again && sha256sum --check --quiet SHA256SUMS
	$(BIN)/twine check --strict dist/*

# What a deployment installs: the versions that the tests ran with here, and the hash of every file of each.
requirements: $(INSTALLED)
	$(BIN)/python -m pip freeze --exclude-editable | grep == > requirements/.tested.txt
	$(BIN)/uv pip compile pyproject.toml --extra tables --extra metrics --extra report \
		--constraint requirements/.tested.txt --universal \
		--python-version 3.11 --generate-hashes --prerelease disallow --no-annotate --upgrade --quiet \
		--custom-compile-command "make requirements" --output-file requirements/deploy.txt
	rm requirements/.tested.txt

bench: $(INSTALLED)
	$(BIN)/python benchmarks/rounds.py --sites 4 --params 11200000
	$(BIN)/python benchmarks/masking.py --sites 8 --params 11200000
	$(BIN)/python benchmarks/masking.py --sites 100 --params 1000000 --processes 4 --rounds 2
	$(BIN)/python benchmarks/compression_kernels.py
	OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python benchmarks/privacy.py
	$(BIN)/python benchmarks/noise_for_epsilon.py
	$(BIN)/python benchmarks/compression.py digits
	$(BIN)/python benchmarks/slow_link.py
	$(BIN)/python benchmarks/slow_hospital.py
	$(BIN)/python benchmarks/leakage.py --out runs/leakage
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/step_time.py

# Flower, NVFlare and pfl-research, each in an environment of its own, beside ours. For more than the small default:
# make bench-peers PEERS_ARGS="--sites 2 32 --params 10000 25000000"
PEERS_ARGS ?=
bench-peers: $(PEERS)/flower/.installed $(PEERS)/nvflare/.installed $(PEERS)/pfl/.installed
	$(BIN)/python benchmarks/peers/compare.py --environments $(PEERS) $(PEERS_ARGS)

$(PEERS)/%/.installed: benchmarks/peers/%.txt | $(INSTALLED)
	$(environment-beside)
