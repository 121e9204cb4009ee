// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hibernation: the machine's memory as it was is put back after the disk has been written to. Whoever
 * keeps both in step is asked before, and told afterwards.
 */
#include <linux/notifier.h>
#include <linux/suspend.h>

#include "shim.h"

static int elio_hibernation_notify(struct notifier_block *block, unsigned long action, void *unused)
{
	switch (action) {
	case PM_HIBERNATION_PREPARE:
		return notifier_from_errno(elio_rs_hibernation(true));
	case PM_POST_HIBERNATION:
		elio_rs_hibernation(false);
		break;
	}
	return NOTIFY_OK;
}

static struct notifier_block elio_hibernation = { .notifier_call = elio_hibernation_notify };

int elio_hibernation_init(void)
{
	return register_pm_notifier(&elio_hibernation);
}

void elio_hibernation_exit(void)
{
	unregister_pm_notifier(&elio_hibernation);
}
