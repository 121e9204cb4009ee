// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mounts: who is told of them, and the superblock of a device.
 *
 * setup_bdev_super(), which every mount of a block device passes through whatever system call it
 * began with, is observed by ftrace and not redirected. The task that mounts then calls
 * elio_rs_mounted() on its way back to user space: the mount is complete or has failed, nothing is
 * locked, nobody has used it yet, and the task has memory for FIEMAP to write into.
 *
 * Invariant: a call that is on its way keeps the module loaded; elio_hook_exit() waits for its end.
 */
#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/task_work.h>

#include "shim.h"

struct elio_mount {
	struct callback_head work;
	dev_t device;
};

static void elio_mount_done(struct callback_head *work)
{
	struct elio_mount *mount = container_of(work, struct elio_mount, work);
	u64 device = mount->device;

	kfree(mount);
	/* Whoever mounts something else need not wait for a command that runs. */
	if (elio_target_is_on(device))
		elio_rs_mounted(device);
	module_put(THIS_MODULE);
}

static void notrace elio_mount_seen(unsigned long ip, unsigned long parent_ip, struct ftrace_ops *ops,
				    struct ftrace_regs *fregs)
{
	const struct super_block *sb = (const struct super_block *)ftrace_regs_get_argument(fregs, 0);
	struct elio_mount *mount;

	/* The kernel's own threads do not return to user space; they mount nothing after boot. */
	if ((current->flags & PF_KTHREAD) || !try_module_get(THIS_MODULE))
		return;
	mount = kmalloc(sizeof(*mount), GFP_ATOMIC);
	if (mount) {
		mount->device = sb->s_dev;
		init_task_work(&mount->work, elio_mount_done);
		if (!task_work_add(current, &mount->work, TWA_RESUME))
			return;
		kfree(mount);
	}
	module_put(THIS_MODULE);
}

static struct ftrace_ops elio_mount_ops = { .func = elio_mount_seen };

int elio_mount_init(void)
{
	int error = ftrace_set_filter_ip(&elio_mount_ops, (unsigned long)setup_bdev_super, 0, 0);

	if (!error)
		error = register_ftrace_function(&elio_mount_ops);
	if (error) {
		ftrace_free_filter(&elio_mount_ops);
		pr_err("elastio-snap: mounts cannot be seen, because setup_bdev_super() cannot be traced: error %d\n",
		       error);
	}
	return error;
}

void elio_mount_exit(void)
{
	unregister_ftrace_function(&elio_mount_ops);
	ftrace_free_filter(&elio_mount_ops);
}

struct elio_search {
	const struct block_device *device;
	struct super_block *found;
};

static void elio_sb_match(struct super_block *sb, void *argument)
{
	struct elio_search *search = argument;

	if (!search->found && sb->s_bdev == search->device && sb->s_root && (sb->s_flags & SB_ACTIVE) &&
	    atomic_inc_not_zero(&sb->s_active))
		search->found = sb;
}

/* The file system that is mounted from a device, kept alive until elio_sb_put(); or NULL. */
struct super_block *elio_sb_get(const struct block_device *device)
{
	static const char *const names[] = { "ext4", "xfs", "ext3", "ext2" };
	struct elio_search search = { .device = device };
	int i;

	/* get_fs_type() would load what is not there, for nothing. */
	if (!READ_ONCE(device->bd_holder))
		return NULL;
	for (i = 0; i < ARRAY_SIZE(names) && !search.found; i++) {
		struct file_system_type *type = get_fs_type(names[i]);

		if (!type)
			continue;
		iterate_supers_type(type, elio_sb_match, &search);
		module_put(type->owner);
	}
	return search.found;
}

void elio_sb_put(struct super_block *sb)
{
	deactivate_super(sb);
}
