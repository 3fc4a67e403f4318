# make demo      a throw-away lab in network namespaces: a guest starts, talks, stops (root)
# make test      what needs no root, in two minutes: lint, unit, cases. ONE=tests/unit/test_plan.py (or a node, or words of its
#                name): that alone
# make check     all tests (root), installing the Debian packages that they need; JOBS=1: one tier at a time
# make check-netns check-libvirt check-package check-pypi check-vm check-xen check-trixie-short  each of its tiers alone
# make check-xen SUITES="bookworm trixie"  Debian 13's Xen too
# make check-service  not in `check`: the agent under a systemd of its own: installed, killed, restarted, upgraded, removed
# make bench     what it costs, against an empty interpreter and Xen's own scripts, in a table (root);
#                with AGAINST=FOLDER: against another checkout, row by row
# make check-trixie  all tiers, the package and the demo on Debian 13, in a root of its own
# make deb       the Debian package, in dist/
# make install   without packaging, below $(DESTDIR)$(PREFIX); the hooks' client is compiled where there is a C compiler
# make clean
SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
LIBDIR = $(DESTDIR)$(PREFIX)/lib/vmnet-hooks

RUN_PACKAGES := python3 python3-pyroute2 python3-lxml python3-click nftables iproute2
DEMO_PACKAGES := $(RUN_PACKAGES) python3-libvirt libvirt-daemon libvirt-daemon-system libvirt-daemon-driver-qemu \
	libvirt-clients qemu-system-x86 busybox-static cpio linux-image-amd64 tcpdump iputils-ping iputils-arping procps kmod
BUILD_PACKAGES := build-essential debhelper dh-python pybuild-plugin-pyproject python3-all python3-setuptools python3-pytest python3-pyfakefs \
	lintian man-db
TEST_PACKAGES := $(RUN_PACKAGES) gcc libc6-dev python3-venv python3-pytest python3-pytest-xdist python3-pyfakefs man-db
CHECK_PACKAGES := $(TEST_PACKAGES) $(DEMO_PACKAGES) $(BUILD_PACKAGES) arptables iptables mmdebstrap util-linux \
	bash-completion ca-certificates e2fsprogs zstd ifupdown ifenslave bridge-utils vlan ethtool net-tools isc-dhcp-client dhcpcd-base dnsmasq-base network-manager netplan.io dbus firewalld keepalived bind9 bind9-dnsutils

# A skip in these tiers is a failure, see tests/conftest.py. Nothing is written beside the sources.
PYTEST = env VMNET_CI=1 PYTHONPATH=$(CURDIR) PYTHONDONTWRITEBYTECODE=1
TIER = $(PYTEST) $(PYTHON) -m pytest -q -p no:cacheprovider

.PHONY: help demo bench test check lint $(addprefix check-,unit netns libvirt package pypi bench vm service xen trixie trixie-short) \
	$(addprefix packages-,demo test check deb) list-packages deb client hooks install clean

help:
	@sed -n '/^SHELL/q; s/^# //p' $(firstword $(MAKEFILE_LIST))

# The services that come with the packages (libvirtd, virtlogd) are installed but not started: SYSTEMD_OFFLINE keeps
# systemctl, and RUNLEVEL=1 keeps invoke-rc.d, from starting anything. The labs run daemons of their own.
define need
	@missing=; \
	for package in $(1); do \
	    [ "$$(dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null)" = installed ] || missing+=" $$package"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	echo "== installing:$$missing"; \
	[ "$$(id -u)" = 0 ] || { echo "$(@): needs root to install packages; run: sudo make $(@)" >&2; exit 1; }; \
	export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 SYSTEMD_OFFLINE=1; \
	apt-get -q update && apt-get -q -y --no-install-recommends install $$missing
endef

list-packages:
	@echo $(CHECK_PACKAGES)
packages-demo:
	$(call need,$(DEMO_PACKAGES))
packages-test:
	$(call need,$(TEST_PACKAGES))
packages-check:
	$(call need,$(CHECK_PACKAGES))
packages-deb:
	$(call need,$(RUN_PACKAGES) $(BUILD_PACKAGES))

demo: packages-demo
	@[ "$$(id -u)" = 0 ] || { echo "make demo: needs root (network namespaces); run: sudo make demo" >&2; exit 1; }
	$(PYTHON) tests/demo/demo.py

bench: packages-check
	@[ "$$(id -u)" = 0 ] || { echo "make bench: needs root (network namespaces); run: sudo make bench" >&2; exit 1; }
	@$(PYTHON) tests/bench/run.py $(if $(AGAINST),--against '$(AGAINST)')

# A file or a node is a path, anything else words that pytest's -k takes.
ONE ?=
test: packages-test $(if $(ONE),,lint)
	@$(if $(ONE),$(TIER) $(if $(findstring .py,$(ONE)),'$(ONE)',-k '$(ONE)' tests/unit tests/cases),$(TIER) -n auto tests/unit tests/cases)

# What measures time runs alone, or beside tiers that only get what it leaves of the processors; of the rest, two tiers run at a
# time. Each shows its output when it ends.
JOBS ?= 2
TOGETHER = $(MAKE) --no-print-directory --keep-going --jobs=$(JOBS) --output-sync=target
check: packages-check .venv-check/ready
	@[ "$$(id -u)" = 0 ] || { echo "make check: needs root (network namespaces); run: sudo make check" >&2; exit 1; }
	@failed=; \
	$(MAKE) --no-print-directory lint || failed=1; \
	$(TOGETHER) check-netns check-unit check-pypi || failed=1; \
	$(MAKE) --no-print-directory --keep-going check-vm check-libvirt || failed=1; \
	$(TOGETHER) check-xen check-trixie-short check-package || failed=1; \
	$(MAKE) --no-print-directory check-bench || failed=1; \
	[ -z "$$failed" ]
	@echo "== make check: all passed"

# Debian 12 has no ruff, and a mypy that is old. /usr/bin/python3 and not whatever else is in PATH: the venv must have the
# Python that the hooks run with.
.venv-check/ready: setup.cfg Makefile
	@echo "== venv with the newest pyroute2, click, lxml, pytest, ruff, mypy, virtme-ng"
	rm -rf .venv-check
	/usr/bin/python3 -m venv .venv-check
	.venv-check/bin/pip -q install --upgrade pyroute2 lxml click pytest pytest-xdist pyfakefs ruff mypy virtme-ng
	.venv-check/bin/pip list 2>/dev/null | grep -iE '^(pyroute2|lxml|click|pytest|pyfakefs|ruff|mypy|virtme-ng) '
	touch $@

lint: .venv-check/ready
	@echo "== lint"
	.venv-check/bin/ruff check --no-cache .
	.venv-check/bin/mypy --cache-dir=/dev/null

check-unit: packages-test
	@echo "== tests/unit, tests/cases"
	@nice -n 10 $(TIER) -n auto tests/unit tests/cases

# More than there are CPUs: most of the time these tests wait for packets that must not come.
check-netns: packages-check
	@echo "== tests/netns"
	@$(TIER) -n 3 --durations=20 tests/netns

check-libvirt: packages-check
	@echo "== tests/libvirt"
	@$(TIER) tests/libvirt

check-package: packages-check
	@echo "== tests/package"
	@$(TIER) tests/package

# What depends on a library's version: what every guest needs is spoken in words of our own; pyroute2 makes links, and lists what
# is drawn and imported.
PYPI = env PATH="$(CURDIR)/.venv-check/bin:$$PATH" VIRTUAL_ENV=$(CURDIR)/.venv-check $(PYTEST) .venv-check/bin/python -m pytest -q -p no:cacheprovider -n 2
PYPI_TESTS = $(addprefix tests/unit/test_,kernel_edge.py wire.py netlink_encoding.py cli.py libvirt_frontend.py import_budget.py) tests/cases
PYPI_NETNS = $(addprefix tests/netns/test_,hostnet.py anycast.py graph_live.py import_state.py)

check-pypi: packages-check .venv-check/ready
	@echo "== tests with PyPI's newest Python packages"
	@nice -n 10 $(PYPI) $(PYPI_TESTS) $(PYPI_NETNS)

# With limits that a busy machine keeps; what takes longest is left out.
check-bench: packages-check
	@echo "== what hooks cost"
	@$(PYTHON) tests/bench/run.py --quick --no-profile --only processes --only at-once --only arp

# On Debian's kernel under QEMU, without KVM: VLANs, bonds and VLAN-aware bridges are not in every machine's kernel.
check-vm: packages-check .venv-check/ready
	@echo "== tests on Debian's kernel, with Debian's Python packages"
	@$(PYTHON) tests/vm/run.py

# Not every machine has a systemd that tests may do with as they like.
check-service: packages-check
	@echo "== the service under Debian's systemd: installed, restarted, killed, upgraded, removed"
	@$(PYTHON) tests/service/run.py

# On this machine's kernel, but for some of the vm tier. The root is made of Debian's packages and kept in
# /var/cache/vmnet-hooks-tests.
check-trixie: packages-check
	@$(PYTHON) tests/trixie/run.py

check-trixie-short: packages-check
	@echo "== tests on Debian 13: unit without the laws, cases, some of netns and libvirt"
	@$(PYTHON) tests/trixie/run.py --short

# Xen, dom0, xl and guests, without KVM: images made of Debian's packages, kept in /var/cache/vmnet-hooks-tests.
SUITES ?= bookworm
check-xen: packages-check
	@echo "== tests on Debian's Xen, in its dom0"
	@for suite in $(SUITES); do $(PYTHON) tests/xen/run.py --suite $$suite || exit 1; done

# dpkg-buildpackage writes beside the tree that it builds, so it gets a copy.
deb: packages-deb
	@rm -rf dist && mkdir -p dist/build/src
	tar -c --exclude-vcs --exclude=__pycache__ --exclude='./.venv-*' --exclude=./dist . | tar -x -C dist/build/src
	cd dist/build/src && dpkg-buildpackage -us -uc
	mv dist/build/*.{deb,dsc,changes,buildinfo,tar.*} dist/
	rm -rf dist/build
	lintian --allow-root --fail-on error,warning dist/*.changes
	@ls -l dist/*.deb

# Every hook, and where it is linked to.
define HOOKS
from vmnet_hooks.frontends import hooks
for name, row in hooks().items():
    print(name, *(link.format(name.rpartition("/")[2]) for link in row.links))
endef
export HOOKS

# The client of the hooks, as the file CLIENT, for a hooks/run that will be installed in HOOKS_PATH.
CFLAGS ?= -O2
HOOKS_PATH = $(PREFIX)/lib/vmnet-hooks/hooks
client:
	$(PYTHON) -B hooks/table.py '$(HOOKS_PATH)/run' >$(CLIENT).h
	$(CC) -std=gnu11 -Wall -Wextra -Werror -I$(dir $(CLIENT)) -DTABLE='"$(notdir $(CLIENT)).h"' $(CPPFLAGS) $(CFLAGS) \
	    -o $(CLIENT) hooks/client.c $(LDFLAGS)
	rm $(CLIENT).h

# Every hook is one file, which shells can source and Python runs. Where there is a compiler, its first line names the client.
hooks:
	install -d $(LIBDIR)/hooks
	install -m 755 hooks/run $(LIBDIR)/hooks/run
	if [ -n "$$(type -P $(CC))" ]; then \
	    $(MAKE) --no-print-directory client CLIENT=$(LIBDIR)/hooks/client; \
	    sed -i '1s,.*,#!$(HOOKS_PATH)/client,' $(LIBDIR)/hooks/run; \
	fi
	$(PYTHON) -B -c "$$HOOKS" | while read -r hook _; do \
	    install -d $(LIBDIR)/hooks/$${hook%/*}; \
	    ln -sf ../run $(LIBDIR)/hooks/$$hook; \
	done

# The hooks look for the package two folders above themselves, so it lives beside them.
install: hooks
	install -d $(DESTDIR)$(PREFIX)/bin
	find vmnet_hooks -name '*.py' -exec install -D -m 644 {} $(LIBDIR)/{} \;
	$(PYTHON) -B -c "$$HOOKS" | while read -r hook links; do \
	    for link in $$links; do \
	        install -d $(DESTDIR)$${link%/*}; \
	        ln -sfn $(PREFIX)/lib/vmnet-hooks/hooks/$$hook $(DESTDIR)$$link; \
	    done; \
	done
	for command in vmnet-hook=cli vmnet-hookd=agent.start; do \
	    printf '%s\n' '#!/usr/bin/python3 -I' 'import sys' 'sys.path.insert(0, "$(PREFIX)/lib/vmnet-hooks")' \
	        "from vmnet_hooks.$${command#*=} import main" 'sys.exit(main())' >$(DESTDIR)$(PREFIX)/bin/$${command%=*}; \
	    chmod 755 $(DESTDIR)$(PREFIX)/bin/$${command%=*}; \
	done
	install -D -m 644 man/vmnet-hook.8 $(DESTDIR)$(PREFIX)/share/man/man8/vmnet-hook.8
	install -D -m 644 man/vmnet-hookd.8 $(DESTDIR)$(PREFIX)/share/man/man8/vmnet-hookd.8
	install -D -m 644 man/vmnet.toml.5 $(DESTDIR)$(PREFIX)/share/man/man5/vmnet.toml.5
	install -D -m 644 etc/rt_protos.d/vmnet.conf $(DESTDIR)/etc/iproute2/rt_protos.d/vmnet.conf
	install -D -m 644 etc/NetworkManager/vmnet-hooks.conf $(DESTDIR)/usr/lib/NetworkManager/conf.d/vmnet-hooks.conf
	install -D -m 644 etc/networkd/10-vmnet-hooks.network $(DESTDIR)/usr/lib/systemd/network/10-vmnet-hooks.network
	install -D -m 644 etc/networkd/10-vmnet-hooks.link $(DESTDIR)/usr/lib/systemd/network/10-vmnet-hooks.link
	install -d $(DESTDIR)/usr/lib/systemd/system
	for unit in vmnet-networks.service vmnet-hookd.service vmnet-hookd.socket vmnet-dnsmasq@.service vmnet-ddns.socket vmnet-ddns@.service; do \
	    sed 's,/usr/bin/vmnet,$(PREFIX)/bin/vmnet,' etc/systemd/$$unit >$(DESTDIR)/usr/lib/systemd/system/$$unit; \
	    chmod 644 $(DESTDIR)/usr/lib/systemd/system/$$unit; \
	done
	install -d $(DESTDIR)/etc/vmnet-hooks/conf.d $(DESTDIR)/etc/vmnet-hooks/domains.d
	[ -e $(DESTDIR)/etc/vmnet-hooks/vmnet.toml ] || install -m 644 etc/vmnet.toml $(DESTDIR)/etc/vmnet-hooks/vmnet.toml

clean:
	rm -rf dist build .venv-check *.egg-info .pybuild .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
