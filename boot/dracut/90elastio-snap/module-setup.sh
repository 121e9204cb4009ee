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
    # shellcheck disable=SC2154 # dracut sets them
    if dracut_module_included systemd; then
        # Its hooks do not wait for the root's device.
        inst_simple "$moddir/arm.sh" /usr/lib/elastio-snap/arm.sh
        inst_simple "$moddir/elastio-snap-root.service" "$systemdsystemunitdir/elastio-snap-root.service"
        $SYSTEMCTL -q --root "$initdir" add-wants initrd-root-fs.target elastio-snap-root.service
    else
        inst_hook pre-mount 10 "$moddir/arm.sh"
    fi
    inst_hook shutdown 90 "$moddir/seal.sh"
}
