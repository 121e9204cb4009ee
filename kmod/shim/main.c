// SPDX-License-Identifier: GPL-2.0-only
/* The module: its parameters, and the order in which its parts come and go. */
#include <linux/module.h>

#include "shim.h"

static unsigned int max_snap_devices = 24;
module_param(max_snap_devices, uint, 0444);
MODULE_PARM_DESC(max_snap_devices, "number of minors (at most 255)");

static unsigned long cow_max_memory_default = 300 << 20;
module_param(cow_max_memory_default, ulong, 0);
MODULE_PARM_DESC(cow_max_memory_default, "default for the most memory a device may use for old data (bytes)");

static unsigned int cow_fallocate_percentage_default = 10;
module_param(cow_fallocate_percentage_default, uint, 0);
MODULE_PARM_DESC(cow_fallocate_percentage_default, "default size of a copy-on-write file in percent of its device");

static int may_hook_syscalls = 1;
module_param(may_hook_syscalls, int, 0444);
MODULE_PARM_DESC(may_hook_syscalls, "accepted for compatibility; no system call is hooked");

static int debug;
module_param(debug, int, 0644);
MODULE_PARM_DESC(debug, "say more in the kernel log");

u32 elio_max_devices(void)
{
	return max_snap_devices ? min(max_snap_devices, 255U) : 24;
}

u64 elio_default_cache(void)
{
	return cow_max_memory_default;
}

bool elio_is_debugging(void)
{
	return READ_ONCE(debug);
}

u32 elio_default_percentage(void)
{
	return cow_fallocate_percentage_default;
}

struct elio_part {
	int (*init)(void);
	void (*exit)(void);
};

/* Each part may use the ones before it. */
static const struct elio_part elio_parts[] = {
	{ elio_bio_init, elio_bio_exit },
	{ elio_disk_init, elio_disk_exit },
	{ elio_hook_init, elio_hook_exit },
	{ elio_cow_init, elio_cow_exit },
	{ elio_rs_init, elio_rs_exit },
	{ elio_mount_init, elio_mount_exit },
	{ elio_hibernation_init, elio_hibernation_exit },
	{ elio_proc_init, elio_proc_exit },
	{ elio_control_init, elio_control_exit },
};

static void elio_exit_parts(int count)
{
	while (count--)
		elio_parts[count].exit();
}

int elio_parts_init(void)
{
	int i, error;

	for (i = 0; i < ARRAY_SIZE(elio_parts); i++) {
		error = elio_parts[i].init();
		if (error) {
			elio_exit_parts(i);
			return error;
		}
	}
	return 0;
}

void elio_parts_exit(void)
{
	elio_exit_parts(ARRAY_SIZE(elio_parts));
}

MODULE_VERSION("0.10.15");
#ifndef ELIO_RFL
module_init(elio_parts_init);
module_exit(elio_parts_exit);
MODULE_AUTHOR("elastio-snap contributors");
MODULE_DESCRIPTION("Live snapshots and change tracking of mounted block devices");
MODULE_LICENSE("GPL");
#endif
