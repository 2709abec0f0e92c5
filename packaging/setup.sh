#!/usr/bin/env bash
# Installs what Sidekick needs on a Debian machine; run as root. Does nothing where all is there.
#
#   packaging/setup.sh build    compiler and linker
#   packaging/setup.sh test     also what the lab and the tests use
#   packaging/setup.sh bench    also GlusterFS, which the benchmarks compare with
#   packaging/setup.sh check    also formatter and linter
set -euo pipefail

want=${1:-build}
here=$(cd "$(dirname "$0")/.." && pwd)
export DEBIAN_FRONTEND=noninteractive

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

version_at_least() { # version_at_least HAVE WANT
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

updated=no
apt_install() {
  local missing=()
  for package in "$@"; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "this is no Debian; install the equivalents of: ${missing[*]}"
  [ "$(id -u)" = 0 ] || fail "not root, and these are missing: ${missing[*]} (apt-get install ${missing[*]})"
  say "installing ${missing[*]}"
  if [ "$updated" = no ]; then
    apt-get update -q >/dev/null
    updated=yes
  fi
  apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
}

PATH="$HOME/.cargo/bin:$PATH"
need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/Cargo.toml")
have=$(cargo --version 2>/dev/null | cut -d' ' -f2 || true)
if [ -z "$have" ] || ! version_at_least "$have" "$need"; then
  if [ -z "$have" ]; then say "no cargo: taking Debian's"; else say "cargo $have is older than $need: taking Debian's"; fi
  apt_install cargo-web rustc-web
  have=$(/usr/bin/cargo --version | cut -d' ' -f2)
  version_at_least "$have" "$need" || fail "Debian's cargo $have is older than $need: add the security updates, or use rustup"
fi
apt_install gcc libc6-dev make

case $want in
build) ;;
test | bench | check)
  # The lab: namespaces, veth, small file systems. The applications: PostgreSQL with pgbench and pg_amcheck,
  # SQLite. For looking at files: ACLs and attributes. PostgreSQL's package must not start a cluster of its own.
  if ! installed postgresql-15; then
    apt_install postgresql-common
    sed -i "s/^#\?create_main_cluster.*/create_main_cluster = false/" /etc/postgresql-common/createcluster.conf
  fi
  apt_install iproute2 iputils-ping util-linux e2fsprogs procps kmod acl attr sqlite3 libcap2-bin \
    postgresql-15 postgresql-client-15 fio
  [ -e /dev/fuse ] || modprobe fuse 2>/dev/null || fail "no /dev/fuse: this kernel or container offers no FUSE"
  ;;
*) fail "unknown step '$want'; one of build, test, bench, check" ;;
esac

if [ "$want" = bench ] && ! installed glusterfs-server; then
  # The benchmark starts its programs itself, on its own hosts: the service stays off. Where the packages cannot be
  # had, the rows of GlusterFS say so and the others run.
  if (apt_install glusterfs-server glusterfs-client); then
    systemctl disable --quiet --now glusterd 2>/dev/null || true
  else
    say "GlusterFS could not be installed: its rows will say so"
  fi
fi

if [ "$want" = check ]; then
  cargo fmt --version >/dev/null 2>&1 || apt_install rustfmt-web
  cargo clippy --version >/dev/null 2>&1 ||
    fail "cargo clippy is not installed, and Debian has none for this compiler: use rustup for 'make check'"
fi
