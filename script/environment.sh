# Sourced by the scripts beside it: installs what they need, quickly when it is there already.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
checkout=$PWD
# The tests start Python a thousand times: what it compiled is to be kept, whatever the environment says.
unset PYTHONDONTWRITEBYTECODE

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "root is needed for: $*  (install sudo, or run this as root)"
    fi
}

# Programs that pkgkmod runs, by package.
debian_packages=(bubblewrap build-essential createrepo-c debhelper debugedit elfutils fakeroot file git gpgv kmod openssl pahole
    python3-rpm python3-venv rpm rpm2cpio xorriso xz-utils zstd)
fedora_packages=(bubblewrap createrepo_c dwarves gcc git gnupg2 kmod kernel-devel make patch python3 python3-rpm rpm-build xorriso xz)

apt_is_fresh=
install_debian() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing: ${missing[*]}"
    [ -n "$apt_is_fresh" ] || as_root apt-get update -qq
    apt_is_fresh=yes
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

install_without_daemons() { # packages for Debian whose daemons are not to be started (policy-rc.d, invoke-rc.d(8))
    local policy=/usr/sbin/policy-rc.d failed=
    if [ -e "$policy" ]; then
        install_debian "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 0755 "$policy"
    install_debian "$@" || failed=yes
    as_root rm -f "$policy"
    [ -z "$failed" ] || fail "not installed: $*"
}

install_packages() { # further packages for Debian
    if command -v apt-get >/dev/null; then
        install_debian "${debian_packages[@]}" "$@"
    elif command -v dnf >/dev/null; then
        rpm -q "${fedora_packages[@]}" >/dev/null 2>&1 || as_root dnf install -y -q "${fedora_packages[@]}"
    else
        say "neither apt-get nor dnf is here: taking for granted that everything is installed"
    fi
}

# The virtual environment lies in the checkout and is made anew when pyproject.toml changes. It is one
# of the system's python, because the rpm bindings are built for that one.
make_environment() { # extras, such as [dev]
    local python=/usr/bin/python3 extras=${1:-} stamp
    stamp="$(sha256sum pyproject.toml | cut -c1-16) $extras $("$python" -V) $checkout"
    case "$(cat .venv/.stamp 2>/dev/null)" in
    "$stamp" | "${stamp/ $extras / [dev] }") return ;;
    esac
    say "making the virtual environment in .venv"
    [ -x .venv/bin/python ] || "$python" -m venv .venv || fail "the virtual environment cannot be made"
    .venv/bin/python -m pip install -q --disable-pip-version-check -e ".$extras" || fail "pip could not install what is needed"
    # koji's library wants gssapi, which has to be compiled, for Kerberos alone; the tests of that take Debian's.
    case "$extras" in *dev*) .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps 'koji>=1.33' 'requests-gssapi>=1.2' || fail "pip could not install koji" ;; esac
    printf '%s' "$stamp" >.venv/.stamp
}

# The distribution's kernel series (6.1, 6.12) as the newest linux-source package has it.
source_series() {
    apt-cache depends linux-source 2>/dev/null | sed -n 's/^ *Depends: linux-source-//p' | head -n 1
}

# The newest headers package of a series for this machine's standard flavour.
newest_headers() { # series
    local flavour
    flavour=$(dpkg --print-architecture)
    apt-cache pkgnames "linux-headers-$1" | grep -E "^linux-headers-$1\.[0-9]+-?[0-9+a-z]*-$flavour\$|^linux-headers-$1\.[0-9]+(\+[a-z0-9]+)?-$flavour\$" |
        sort -V | tail -n 1
}

ensure_package_lists() {
    [ -n "$(apt-cache pkgnames linux-source 2>/dev/null)" ] && return
    as_root apt-get update -qq
    apt_is_fresh=yes
}
