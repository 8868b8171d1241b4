# insitu's tasks. `make help` lists them; the logic is in scripts/.
#
# PG_CONFIG picks the PostgreSQL (by default the newest that is installed), or PG its major version, which is
# got from where it is to be had (scripts/with-postgres.sh). ROWS are the rows of demo and bench.

ifneq ($(PG),)
# All that was asked for, once more, with that version.
unexport MAKEFLAGS
GOALS := $(or $(MAKECMDGOALS),help)
.PHONY: $(GOALS) with-postgres
$(GOALS): with-postgres
	@:
with-postgres:
	@scripts/with-postgres.sh $(PG) make --no-print-directory PG= $(filter-out PG=%,$(MAKEOVERRIDES)) $(GOALS)
else

.PHONY: help setup build install install-compat uninstall package sql demo demo-begins test test-crates test-sql test-regress test-clusters test-core bench fmt lint clean
.DEFAULT_GOAL := help

ENV := scripts/env.sh
PYTHON := $(ENV) target/venv/bin/python
ROWS ?=
NAME ?= local
export PG_CONFIG

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 18

setup: ## install what building and testing need; does nothing the second time
	@scripts/setup.sh

build: setup ## build the extension, optimized
	@$(ENV) sh -c 'cargo build --release --target-dir target --no-default-features --features "$$PG_FEATURE"'

install: setup ## build, and install into PG_CONFIG's PostgreSQL
	@scripts/install.sh

install-compat: ## install only the extension "vector" that stands for insitu (part of install)
	@scripts/install.sh compat

uninstall: ## remove what install has put into PG_CONFIG's PostgreSQL
	@scripts/install.sh uninstall

package: setup ## make .deb packages and the files of an extension image, into target/packages
	@scripts/package.sh

sql: setup ## generate the installation script sql/insitu--VERSION.sql
	@scripts/sql.sh

demo: demo-begins install ## ask questions about Debian's packages (ROWS=3000, or all)
	@$(PYTHON) demo/demo.py $(ROWS)

demo-begins:
	@if [ -e target/release/libinsitu.so ]; then echo "This takes about a minute: most is there already."; \
	else echo "The first run takes about ten minutes on two cores, most of them for compiling; the next one a minute."; fi

test: test-crates test-sql test-regress test-clusters ## run every test

test-crates: setup ## unit and property tests of the crates, without a server
	@$(ENV) cargo test -p ann -p encoder -p memory

test-sql: setup ## the committed installation script is what the sources say
	@scripts/sql.sh check

test-regress: install ## SQL regression tests
	@scripts/regress.sh

test-clusters: install ## crash, replica, concurrency and client tests on real clusters
	@$(PYTHON) scripts/cluster.py readable target/venv/bin/python -m pytest tests

test-core: install ## those of them that are run on every version of PostgreSQL
	@$(PYTHON) scripts/cluster.py readable target/venv/bin/python -m pytest tests -m core

bench: install ## measure against the peers that are installed (ROWS=20000, or all; NAME=local)
	@$(PYTHON) bench/bench.py --name $(NAME) $(if $(ROWS),--rows $(ROWS))

fmt: ## format the Rust code
	@$(ENV) cargo fmt --all

lint: ## check format, warnings, dependencies and scripts
	@scripts/setup.sh lint
	@scripts/lint.sh

clean: ## remove everything that was built or fetched
	@rm -rf target 2>/dev/null || sudo rm -rf target

endif
