#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The dracut module: arms volumes before the root is mounted, and seals their files after it was
# unmounted at shutdown.

check() {
    # shellcheck disable=SC2154 # dracut sets it
    [[ -s $dracutsysrootdir/etc/elastio-snap/volumes ]] && require_binaries elioctl
}

installkernel() {
    hostonly='' instmods elastio-snap
}

install() {
    inst_multiple elioctl rmmod
    inst_simple /etc/elastio-snap/volumes
    # shellcheck disable=SC2154 # dracut sets it
    inst_hook pre-mount 10 "$moddir/arm.sh"
    # shellcheck disable=SC2154
    inst_hook shutdown 90 "$moddir/seal.sh"
}
