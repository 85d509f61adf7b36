#!/bin/bash
# Keeps a driver update of SUSE's linuxrc if it is for the running kernel, and empties it otherwise.
#
#   bash /update/NUMBER/install/NAME.sh SERIES FLAVOUR FIRST NEXT
#
# All service packs look for updates under the same name, and linuxrc loads the modules of one update after the other,
# whatever kernel they are for: the last one would take the place of the right one. Kernels of a SERIES
# (6.4.0-150600) differ in the numbers behind it; the update is for those from FIRST on, and below NEXT (- for none).

update=${0%/install/*}
kernel=$(uname -r)

# below A B: tell whether A is less than B, both of them numbers with dots between them
below() {
    local a=$1. b=$2. one other
    while [ -n "$a$b" ]; do
        one=${a%%.*} other=${b%%.*} a=${a#*.} b=${b#*.}
        [ "${one:-0}" -lt "${other:-0}" ] && return 0
        [ "${one:-0}" -gt "${other:-0}" ] && return 1
    done
    return 1
}

is_for_kernel() {
    local base=${kernel%-"$2"} numbers
    [ "$base" != "$kernel" ] || return 1
    case $base in
    "$1") numbers=0 ;;
    "$1".*) numbers=${base#"$1".} ;;
    *) return 1 ;;
    esac
    ! below "$numbers" "$3" || return 1
    [ "$4" = - ] || below "$numbers" "$4"
}

if [ -d "$update" ] && ! is_for_kernel "$@"; then
    echo "no driver update for $kernel: ${0##*/}"
    rm -rf "${update:?}"/*
fi
