// SPDX-License-Identifier: GPL-2.0-only
/*
 * A copy-on-write file: made through the file system, then written around it.
 *
 * Invariants: while it is pinned (S_SWAPFILE) the file system neither moves nor frees its blocks; a
 * mark keeps the inode in memory and goes when the volume is unmounted, and no struct file and no
 * mount stays in use behind a command, so it is in no one's way. Its extents are known from then on
 * and used to the end, whether or not the volume is still mounted; but once it is written through the
 * file system again, nothing is written around it any more.
 */
#include <linux/blkdev.h>
#include <linux/falloc.h>
#include <linux/fileattr.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/fsnotify_backend.h>
#include <linux/magic.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "shim.h"

#define ELIO_XFS_MAGIC 0x58465342
#define ELIO_BLOCK 4096
#define ELIO_WINDOW 256 /* extents that are asked for at a time */

struct elio_cow {
	struct fsnotify_mark mark;
	spinlock_t lock;
	struct inode *inode; /* NULL once unmounted */
	struct elio_device *device;
	char *path;
	struct vfsmount *mount; /* where it was made, until elio_cow_settle() */
	struct file *file; /* from the first elio_cow_write() on */
	struct elio_extent *extents;
	u32 used, room;
};

static struct fsnotify_group *elio_marks;

static void elio_cow_freeing(struct fsnotify_mark *mark, struct fsnotify_group *group)
{
	struct elio_cow *cow = container_of(mark, struct elio_cow, mark);

	spin_lock(&cow->lock);
	cow->inode = NULL;
	spin_unlock(&cow->lock);
}

static int elio_cow_event(struct fsnotify_mark *mark, u32 mask, struct inode *inode, struct inode *dir,
			  const struct qstr *name, u32 cookie)
{
	if (mask & FS_UNMOUNT)
		elio_device_rest(container_of(mark, struct elio_cow, mark)->device);
	return 0;
}

static void elio_cow_free_mark(struct fsnotify_mark *mark)
{
	struct elio_cow *cow = container_of(mark, struct elio_cow, mark);

	elio_device_put(cow->device);
	kvfree(cow->extents);
	kfree(cow->path);
	kfree(cow);
}

static const struct fsnotify_ops elio_mark_operations = {
	.handle_inode_event = elio_cow_event,
	.freeing_mark = elio_cow_freeing,
	.free_mark = elio_cow_free_mark,
};

int elio_cow_init(void)
{
	elio_marks = fsnotify_alloc_group(&elio_mark_operations, 0);
	return PTR_ERR_OR_ZERO(elio_marks);
}

void elio_cow_exit(void)
{
	/* No mark is left; those that went are freed by a thread of fsnotify's, with code of ours. */
	fsnotify_wait_marks_destroyed();
	fsnotify_put_group(elio_marks);
}

/* The file's inode; its file system stays until elio_cow_release(), also if somebody unmounts it. Or NULL. */
static struct inode *elio_cow_inode(struct elio_cow *cow)
{
	struct inode *inode;

	spin_lock(&cow->lock);
	inode = cow->inode;
	/* While the mark has the inode, it is there, and so is its superblock. */
	if (inode && atomic_inc_not_zero(&inode->i_sb->s_active))
		ihold(inode);
	else
		inode = NULL;
	spin_unlock(&cow->lock);
	return inode;
}

static void elio_cow_release(struct inode *inode)
{
	struct super_block *sb = inode->i_sb;

	iput(inode);
	elio_sb_put(sb);
}

static void elio_cow_set_pin(struct inode *inode, bool pin)
{
	inode_lock(inode);
	if (pin)
		inode->i_flags |= S_SWAPFILE;
	else
		inode->i_flags &= ~S_SWAPFILE;
	inode_unlock(inode);
}

static int elio_cow_add(struct elio_cow *cow, const struct fiemap_extent *found, u64 at, u64 bytes)
{
	struct elio_extent *extents;

	if (found->fe_flags & ~(FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_UNWRITTEN | FIEMAP_EXTENT_MERGED))
		return -EOPNOTSUPP;
	if (found->fe_logical != at)
		return -ENODATA;
	if (!IS_ALIGNED(found->fe_physical | found->fe_length, SECTOR_SIZE))
		return -EOPNOTSUPP;
	if (cow->used == cow->room) {
		u32 room = cow->room ? cow->room * 2 : 64;

		extents = kvmalloc_array(room, sizeof(*extents), GFP_KERNEL);
		if (!extents)
			return -ENOMEM;
		memcpy(extents, cow->extents, cow->used * sizeof(*extents));
		kvfree(cow->extents);
		cow->extents = extents;
		cow->room = room;
	}
	cow->extents[cow->used++] = (struct elio_extent){
		.file_sector = at >> SECTOR_SHIFT,
		.sector = found->fe_physical >> SECTOR_SHIFT,
		.sectors = min(found->fe_length, bytes - at) >> SECTOR_SHIFT,
	};
	return 0;
}

/* The extents of the first `bytes` of the file, through a window in the caller's memory. */
static int elio_cow_map(struct elio_cow *cow, struct inode *inode, u64 bytes)
{
	unsigned long size = PAGE_ALIGN(ELIO_WINDOW * sizeof(struct fiemap_extent));
	unsigned long window = vm_mmap(NULL, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, 0);
	u64 at = 0;
	int error = 0;

	if (IS_ERR_VALUE(window))
		return (int)window;
	while (!error && at < bytes) {
		struct fiemap_extent_info info = {
			.fi_extents_max = ELIO_WINDOW,
			.fi_extents_start = (struct fiemap_extent __user *)window,
		};
		u32 i;

		error = inode->i_op->fiemap(inode, &info, at, bytes - at);
		if (!error && !info.fi_extents_mapped)
			error = -ENODATA;
		for (i = 0; !error && i < info.fi_extents_mapped && at < bytes; i++) {
			struct fiemap_extent found;

			if (copy_from_user(&found, info.fi_extents_start + i, sizeof(found)))
				error = -EFAULT;
			else
				error = elio_cow_add(cow, &found, at, bytes);
			at = error ? at : found.fe_logical + found.fe_length;
		}
		cond_resched();
	}
	vm_munmap(window, size);
	return error;
}

static int elio_cow_zero(struct file *file, u64 from, u64 to)
{
	const size_t size = 64 << 10;
	void *zeroes = kvzalloc(size, GFP_KERNEL);
	loff_t at = from;
	ssize_t written = 0;

	if (!zeroes)
		return -ENOMEM;
	while (at < to) {
		written = kernel_write(file, zeroes, min_t(u64, size, to - at), &at);
		if (written <= 0)
			break;
		cond_resched();
	}
	kvfree(zeroes);
	return at >= to ? 0 : written ? written : -EIO;
}

static int elio_cow_set_size(struct dentry *dentry, u64 bytes)
{
	struct iattr attributes = { .ia_valid = ATTR_SIZE, .ia_size = bytes };
	struct inode *inode = d_inode(dentry);
	int error = -EROFS;

	sb_start_write(inode->i_sb);
	inode_lock(inode);
	/* No mount is asked for leave, which would say so. */
	if (!sb_rdonly(inode->i_sb))
		error = notify_change(&nop_mnt_idmap, dentry, &attributes, NULL);
	inode_unlock(inode);
	sb_end_write(inode->i_sb);
	return error;
}

/* The data of a realtime file of XFS is on a device of its own, whatever that of the file system is. */
static bool elio_cow_is_realtime(struct dentry *dentry)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
	struct file_kattr attributes = {};
#else
	struct fileattr attributes = {};
#endif

	return !vfs_fileattr_get(dentry, &attributes) && (attributes.fsx_xflags & FS_XFLAG_REALTIME);
}

static int elio_cow_check(struct dentry *dentry, struct elio_device *device)
{
	const struct inode *inode = d_inode(dentry);
	const struct super_block *sb = inode->i_sb;

	if (S_ISDIR(inode->i_mode))
		return -EISDIR;
	if (!S_ISREG(inode->i_mode) || sb->s_bdev != elio_device_bdev(device) || elio_cow_is_realtime(dentry))
		return -EINVAL;
	if (sb->s_magic != EXT4_SUPER_MAGIC && sb->s_magic != ELIO_XFS_MAGIC)
		return -EOPNOTSUPP;
	if (!inode->i_op->fiemap)
		return -EOPNOTSUPP;
	/* The file system zeroes the rest of a block when it cuts the file, and reads and writes whole ones. */
	if (i_blocksize(inode) > ELIO_BLOCK)
		return -EOPNOTSUPP;
	if (IS_SWAPFILE(inode) || IS_IMMUTABLE(inode))
		return -ETXTBSY;
	return 0;
}

/* Its path, relative to the root of its file system. */
static int elio_cow_name(struct elio_cow *cow, struct dentry *dentry)
{
	char *buffer = kmalloc(PATH_MAX, GFP_KERNEL);
	char *path;

	if (!buffer)
		return -ENOMEM;
	path = dentry_path_raw(dentry, buffer, PATH_MAX);
	cow->path = IS_ERR(path) ? NULL : kstrdup(path, GFP_KERNEL);
	kfree(buffer);
	return cow->path ? 0 : -ENOMEM;
}

/* From here on the file system leaves the file where it is, and its extents are known. */
static int elio_cow_pin(struct elio_cow *cow, struct inode *inode, u64 bytes)
{
	int error;

	elio_cow_set_pin(inode, true);
	error = filemap_write_and_wait(inode->i_mapping);
	if (!error)
		error = invalidate_inode_pages2(inode->i_mapping);
	if (!error)
		error = elio_cow_map(cow, inode, bytes);
	if (!error) {
		cow->inode = inode;
		error = fsnotify_add_inode_mark(&cow->mark, inode, 0);
	}
	if (error)
		elio_cow_set_pin(inode, false);
	return error;
}

/*
 * What lies in `marks_from` .. `marks_to`, and the header block, is written beforehand, so that it can be
 * read through the file system whatever was written around it. The rest is only reserved.
 */
static int elio_cow_fill(struct elio_cow *cow, struct file *file, u64 marks_from, u64 marks_to, u64 bytes)
{
	struct inode *inode = file_inode(file);
	u64 total = max(marks_to, round_up(bytes, ELIO_BLOCK));
	int error;

	error = elio_cow_set_size(file_dentry(file), 0);
	if (error)
		return error;
	error = vfs_fallocate(file, 0, 0, total);
	if (error == -EOPNOTSUPP)
		error = elio_cow_zero(file, 0, total);
	else if (!error)
		error = elio_cow_zero(file, 0, ELIO_BLOCK);
	if (!error)
		error = elio_cow_zero(file, marks_from, marks_to);
	if (!error)
		error = vfs_fsync(file, 0);
	if (!error)
		error = elio_cow_name(cow, file_dentry(file));
	return error ? error : elio_cow_pin(cow, inode, total);
}

/*
 * A reference more than the caller's: vfs_unlink ends with d_delete, which turns a dentry that only one holds into a
 * negative one, and an open file whose dentry is negative cannot be closed.
 */
static int elio_cow_unlink(struct dentry *dentry)
{
	struct dentry *parent = dget_parent(dentry);
	int error = -ESTALE;

	dget(dentry);
	sb_start_write(dentry->d_sb);
	inode_lock_nested(d_inode(parent), I_MUTEX_PARENT);
	if (sb_rdonly(dentry->d_sb))
		error = -EROFS;
	else if (dentry->d_parent == parent && !d_unhashed(dentry))
		error = vfs_unlink(&nop_mnt_idmap, d_inode(parent), dentry, NULL);
	inode_unlock(d_inode(parent));
	sb_end_write(dentry->d_sb);
	dput(dentry);
	dput(parent);
	return error;
}

static struct elio_cow *elio_cow_new(struct elio_device *device)
{
	struct elio_cow *cow = kzalloc(sizeof(*cow), GFP_KERNEL);

	if (!cow)
		return NULL;
	spin_lock_init(&cow->lock);
	fsnotify_init_mark(&cow->mark, elio_marks);
	cow->mark.mask = FS_UNMOUNT;
	cow->device = elio_device_get(device);
	return cow;
}

struct elio_cow *elio_cow_create(const char *path, struct elio_device *device, u64 marks_from, u64 marks_to, u64 bytes,
				 long *error)
{
	struct elio_cow *cow;
	struct file *file;

	file = filp_open(path, O_CREAT | O_RDWR | O_LARGEFILE | O_NOFOLLOW, 0600);
	if (IS_ERR(file)) {
		*error = PTR_ERR(file);
		return NULL;
	}
	*error = elio_cow_check(file_dentry(file), device);
	if (*error) {
		if (file->f_mode & FMODE_CREATED)
			elio_cow_unlink(file_dentry(file));
		goto out;
	}
	*error = -ENOMEM;
	cow = elio_cow_new(device);
	if (!cow)
		goto out;
	*error = elio_cow_fill(cow, file, marks_from, marks_to, bytes);
	if (!*error) {
		cow->mount = mntget(file->f_path.mnt);
		filp_close(file, NULL);
		return cow;
	}
	elio_cow_unlink(file_dentry(file));
	fsnotify_put_mark(&cow->mark);
out:
	filp_close(file, NULL);
	return NULL;
}

static struct dentry *elio_cow_step(struct dentry *parent, const char *name, int length)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
	return lookup_one_positive_unlocked(&nop_mnt_idmap, &QSTR_LEN(name, length), parent);
#else
	return lookup_one_positive_unlocked(&nop_mnt_idmap, name, parent, length);
#endif
}

/* The file at a path from the root of a file system. Links are not followed. */
static struct dentry *elio_cow_walk(struct super_block *sb, const char *path, size_t length)
{
	const char *const end = path + length;
	struct dentry *here = dget(sb->s_root), *next;

	for (;;) {
		const char *name;

		while (path < end && *path == '/')
			path++;
		for (name = path; path < end && *path != '/'; path++)
			;
		if (path == name)
			return here;
		next = d_is_dir(here) ? elio_cow_step(here, name, path - name) : ERR_PTR(-ENOTDIR);
		dput(here);
		if (IS_ERR(next))
			return next;
		here = next;
	}
}

/* The file's name, which the kernel forgets when memory is short. */
static struct dentry *elio_cow_dentry(struct elio_cow *cow, struct inode *inode)
{
	struct dentry *dentry = elio_cow_walk(inode->i_sb, cow->path, strlen(cow->path));

	if (IS_ERR(dentry) || d_inode(dentry) == inode)
		return dentry;
	dput(dentry);
	return ERR_PTR(-ESTALE);
}

static int elio_cow_adopt(struct elio_cow *cow, struct dentry *dentry, struct elio_device *device)
{
	struct inode *inode = d_inode(dentry);
	int error = elio_cow_check(dentry, device);

	if (error)
		return error;
	/* What somebody may still write into through a mapping cannot be kept from it. */
	if (mapping_writably_mapped(inode->i_mapping))
		return -ETXTBSY;
	error = elio_device_hold(device);
	if (!error)
		error = elio_cow_name(cow, dentry);
	return error ? error : elio_cow_pin(cow, inode, round_down(i_size_read(inode), ELIO_BLOCK));
}

/* Finds a file that is there, by its path from the root of the file system on the device. */
struct elio_cow *elio_cow_find(const char *path, size_t length, struct elio_device *device, long *error)
{
	struct super_block *sb = elio_sb_get(elio_device_bdev(device));
	struct elio_cow *cow = NULL;
	struct dentry *dentry;

	if (!sb) {
		*error = -ENODEV;
		return NULL;
	}
	dentry = elio_cow_walk(sb, path, length);
	*error = PTR_ERR_OR_ZERO(dentry);
	if (*error)
		goto out;
	cow = elio_cow_new(device);
	*error = cow ? elio_cow_adopt(cow, dentry, device) : -ENOMEM;
	if (cow && *error) {
		fsnotify_put_mark(&cow->mark);
		cow = NULL;
	}
	dput(dentry);
out:
	elio_sb_put(sb);
	return cow;
}

/* Whether it is on a volume that is mounted, and can be written. */
bool elio_cow_is_mounted(struct elio_cow *cow)
{
	bool mounted;

	spin_lock(&cow->lock);
	mounted = cow->inode && !sb_rdonly(cow->inode->i_sb);
	spin_unlock(&cow->lock);
	return mounted;
}

/* Whether the file system has it, so that it stays where it is. */
bool elio_cow_is_pinned(struct elio_cow *cow)
{
	return READ_ONCE(cow->inode);
}

/* They do not change. */
const struct elio_extent *elio_cow_extents(const struct elio_cow *cow, u32 *count)
{
	*count = cow->used;
	return cow->extents;
}

const char *elio_cow_path(const struct elio_cow *cow)
{
	return cow->path;
}

/* Whether the path leads to this file. */
bool elio_cow_is(const struct elio_cow *cow, const char *name)
{
	struct path path;
	bool same;

	if (kern_path(name, 0, &path))
		return false;
	same = d_inode(path.dentry) == READ_ONCE(cow->inode);
	path_put(&path);
	return same;
}

/* Frees what is behind `bytes`. */
int elio_cow_truncate(struct elio_cow *cow, u64 bytes)
{
	struct inode *inode = elio_cow_inode(cow);
	struct dentry *dentry;
	int error = 0;

	if (!inode)
		return -ESTALE;
	dentry = elio_cow_dentry(cow, inode);
	if (IS_ERR(dentry)) {
		elio_cow_release(inode);
		return PTR_ERR(dentry);
	}
	elio_cow_set_pin(inode, false);
	if (i_size_read(inode) > bytes)
		error = elio_cow_set_size(dentry, bytes);
	elio_cow_set_pin(inode, true);
	dput(dentry);
	elio_cow_release(inode);
	return error;
}

/* Takes the file out of its directory; it is closed afterwards all the same. */
int elio_cow_remove(struct elio_cow *cow)
{
	struct inode *inode = elio_cow_inode(cow);
	struct dentry *dentry;
	int error;

	if (!inode)
		return -ESTALE;
	elio_cow_set_pin(inode, false);
	dentry = elio_cow_dentry(cow, inode);
	error = PTR_ERR_OR_ZERO(dentry);
	if (!error) {
		error = elio_cow_unlink(dentry);
		dput(dentry);
	}
	elio_cow_release(inode);
	return error;
}

/* The command that made it is over. */
void elio_cow_settle(struct elio_cow *cow)
{
	mntput(cow->mount);
	cow->mount = NULL;
}

static int elio_cow_open(struct elio_cow *cow, struct vfsmount *mount)
{
	struct inode *inode = elio_cow_inode(cow);
	struct path path = { .mnt = mount };
	struct file *file = ERR_PTR(-ESTALE);

	if (inode && mount) {
		path.dentry = elio_cow_dentry(cow, inode);
		file = ERR_CAST(path.dentry);
	}
	if (!IS_ERR_OR_NULL(path.dentry)) {
		elio_cow_set_pin(inode, false);
		file = dentry_open(&path, O_RDWR | O_LARGEFILE, current_cred());
		dput(path.dentry);
	}
	if (inode)
		elio_cow_release(inode);
	if (IS_ERR(file))
		return PTR_ERR(file);
	cow->file = file;
	return 0;
}

/*
 * Writes through the file system, by the mount through which another file was made; `sync` makes durable
 * this and what was written before. From here on the file system may move the file.
 */
int elio_cow_write(struct elio_cow *cow, struct elio_cow *made, u64 offset, const void *memory, size_t bytes,
		   bool sync)
{
	loff_t at = offset;
	ssize_t written;
	int error;

	error = cow->file ? 0 : elio_cow_open(cow, made->mount);
	if (error)
		return error;
	while (bytes) {
		written = kernel_write(cow->file, memory, bytes, &at);
		if (written <= 0)
			return written ? written : -EIO;
		memory += written;
		bytes -= written;
	}
	return sync ? vfs_fsync(cow->file, 0) : 0;
}

void elio_cow_close(struct elio_cow *cow)
{
	struct inode *inode = elio_cow_inode(cow);

	elio_cow_settle(cow);
	if (cow->file)
		filp_close(cow->file, NULL);
	if (inode) {
		/* What was written around the file system is to be read through it from now on. */
		invalidate_inode_pages2(inode->i_mapping);
		elio_cow_set_pin(inode, false);
	}
	fsnotify_destroy_mark(&cow->mark, elio_marks);
	fsnotify_put_mark(&cow->mark);
	if (inode)
		elio_cow_release(inode);
}
