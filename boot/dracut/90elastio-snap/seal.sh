#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Nothing is mounted any more: unloading the module closes the files in order.
[ ! -d /sys/module/elastio_snap ] || rmmod elastio_snap
