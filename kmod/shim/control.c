// SPDX-License-Identifier: GPL-2.0-only
/* The control node. Every command needs CAP_SYS_ADMIN, whoever passed the descriptor on. */
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>

#include "shim.h"

static long elio_control_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	return elio_rs_ioctl(command, argument);
}

static const struct file_operations elio_control_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = elio_control_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice elio_control = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "elastio-snap-ctl",
	.fops = &elio_control_operations,
	.mode = 0600,
};

int elio_control_init(void)
{
	return misc_register(&elio_control);
}

void elio_control_exit(void)
{
	misc_deregister(&elio_control);
}
