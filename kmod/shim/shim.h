/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ABI between the shim and the Rust object: scalars and opaque pointers, the same on every
 * kernel. Functions elio_rs_* are the Rust object's, all others the shim's. The shim decides
 * nothing; every difference between kernel versions is in its files and in none of Rust's.
 *
 * Error numbers are negative, as the kernel has them. "May sleep" is said where it matters: what
 * does not say so may be called from an interrupt.
 */
#ifndef ELIO_SHIM_H
#define ELIO_SHIM_H

#include <linux/types.h>
#include <linux/blk_types.h>
#include <linux/irqflags.h>
#include <linux/llist.h>
#include <linux/percpu.h>

struct bio;
struct block_device;
struct kmem_cache;
struct super_block;
struct elio_worker;
struct elio_target;
struct elio_write;
struct elio_cow;
struct elio_device;
struct elio_disk;
struct seq_file;

/* What a worker finds in its queue: every structure that travels begins with it. */
enum elio_event_kind {
	ELIO_EVENT_WRITE = 0, /* struct elio_write: a write that did not pass */
	ELIO_EVENT_READ = 1,  /* struct elio_read: a read of the snapshot */
	ELIO_EVENT_IO = 2,    /* struct elio_io: own I/O that has ended */
};

struct elio_event {
	struct llist_node node;
	u32 kind;
};

/* Records that are not in use. */
struct elio_spares {
	struct llist_node *last; /* the one that was in use last, or NULL; of processors only */
	struct llist_node *first; /* others */
	u32 count; /* of those */
};

/* Records kept for each processor, so that what is usual allocates nothing. */
#define ELIO_SPARES 128

/* Never waits; NULL if there is none. From any context, as the two below. */
static __always_inline struct llist_node *elio_spare_take(struct elio_spares __percpu *all)
{
	struct llist_node *node = this_cpu_xchg(all->last, NULL);
	struct elio_spares *spares;
	unsigned long flags;

	if (likely(node))
		return node;
	raw_local_irq_save(flags);
	spares = this_cpu_ptr(all);
	node = spares->first;
	if (node) {
		spares->first = node->next;
		spares->count--;
	}
	raw_local_irq_restore(flags);
	return node;
}

/* False if there are enough: then it is to be freed. */
static __always_inline bool elio_spare_put(struct elio_spares __percpu *all, struct llist_node *node)
{
	struct elio_spares *spares;
	unsigned long flags;
	bool room;

	if (likely(!this_cpu_cmpxchg(all->last, NULL, node)))
		return true;
	raw_local_irq_save(flags);
	spares = this_cpu_ptr(all);
	room = spares->count < ELIO_SPARES;
	if (room) {
		node->next = spares->first;
		spares->first = node;
		spares->count++;
	}
	raw_local_irq_restore(flags);
	return room;
}

/* bio.c: when nobody uses them any more; the node is `offset` bytes inside its record. */
void elio_spares_free(struct elio_spares __percpu *all, struct kmem_cache *cache, size_t offset);

/* What a request carries for Rust (bytes). */
#define ELIO_JOB_BYTES 96

/* memory.c: never for more than the kernel gives without I/O; may sleep. */
u32 elio_noio_enter(void);
void elio_noio_leave(u32 saved);
void *elio_alloc(size_t bytes);
void *elio_alloc_sure(size_t bytes);
void elio_free(void *memory);
int elio_from_user(void *to, u64 from, size_t bytes);
int elio_to_user(u64 to, const void *from, size_t bytes);
void *elio_string_from_user(u64 from, size_t limit, long *error);
void elio_random(void *to, size_t bytes);

/* lock.c: a mutex, and something to wait for; waiting may sleep. */
void *elio_mutex_new(u32 rank);
void elio_mutex_lock(void *mutex);
bool elio_mutex_try_lock(void *mutex);
void elio_mutex_unlock(void *mutex);
void elio_mutex_free(void *mutex);
void *elio_signal_new(void);
void elio_signal_raise(void *signal);
void elio_signal_wait(void *signal);
void elio_signal_free(void *signal);
void elio_rcu_wait(void);

/* print.c */
void elio_print(u32 level, const u8 *text, size_t length, u64 number, const u8 *why, size_t why_length, s64 error);
void elio_bug(void);

/* work.c: a queue of events and the thread that calls elio_rs_work() with `context`. */
struct elio_worker *elio_worker_new(void *context, u32 minor);
void *elio_worker_context(const struct elio_worker *worker);
struct elio_spares *elio_worker_spares(struct elio_worker *worker);
bool elio_worker_put(struct elio_worker *worker, struct elio_event *event);
void elio_worker_begin(struct elio_worker *worker);
void elio_worker_end(struct elio_worker *worker);
void elio_worker_post(struct elio_worker *worker, struct elio_event *event);
void elio_worker_kick(struct elio_worker *worker);
struct elio_event *elio_worker_take(struct elio_worker *worker);
struct elio_event *elio_event_next(struct elio_event *event);
void elio_event_set_next(struct elio_event *event, struct elio_event *next);
u32 elio_event_kind(const struct elio_event *event);
void elio_worker_tick_every(struct elio_worker *worker, u32 seconds);
bool elio_worker_take_tick(struct elio_worker *worker);
void elio_worker_stop(struct elio_worker *worker);
void elio_worker_free(struct elio_worker *worker);
void elio_rs_work(void *context);

/* hook.c: the writes of tracked devices. */
int elio_hook_init(void);
void elio_hook_exit(void);
struct elio_target *elio_target_new(struct block_device *device, struct elio_worker *worker, void *tracker);
bool elio_target_publish(struct elio_target *target);
void elio_target_unpublish(struct elio_target *target);
void elio_target_free(struct elio_target *target);
/* Whether a device has a target that is published. */
bool elio_target_is_on(dev_t device);
/*
 * Counts a write in flight in a lane and tells whether it may pass; byte offsets in the device. Under
 * RCU, from any context.
 */
bool elio_rs_test(void *tracker, u32 lane, u64 offset, u64 length);
/* Undoes the count of elio_rs_test(). */
void elio_rs_leave(void *tracker, u32 lane);
/* Takes a write that does not pass and that is still counted; may sleep unless `nowait`. */
void elio_rs_hold(void *tracker, struct elio_event *write, bool nowait);
/* Takes a bio to all that are to see it, and down. May sleep unless it is REQ_NOWAIT. */
void elio_dispatch(struct bio *bio);
/* What is held is a write until it is told to go. */
u32 elio_write_op(const struct elio_write *write);
bool elio_write_nowait(const struct elio_write *write);
u32 elio_write_lane(const struct elio_write *write);
u64 elio_write_offset(const struct elio_write *write);
u64 elio_write_length(const struct elio_write *write);
bool elio_write_peek(const struct elio_write *write, u64 offset, u8 *to, size_t length);
void elio_write_submit(struct elio_write *write);
void elio_write_end(struct elio_write *write, int error);

/* bio.c: own I/O; each start is answered by one event. May sleep. */
int elio_bio_init(void);
void elio_bio_exit(void);
bool elio_io_reserve(struct elio_spares *spares);
void elio_io_drop(struct elio_spares *spares);
void elio_io_endio(struct bio *bio);
bool elio_io_is_from(const void *private, const struct elio_worker *worker);
void *elio_io_new(struct elio_worker *worker);
void *elio_io_job(void *io);
void elio_io_add(void *io, struct block_device *device, u32 op, u64 sector, void *memory, size_t bytes);
void elio_io_add_part(void *io, struct block_device *device, u64 sector, void *read, u64 from, u64 bytes);
void elio_io_flush(void *io, struct block_device *device);
void elio_io_start(void *io);
int elio_io_error(const struct elio_event *event);
void elio_io_free(struct elio_event *event);
int elio_io_sync_read(struct block_device *device, u64 sector, void *memory, size_t bytes);
void elio_submit(struct bio *bio);

/* device.c: the tracked block device. May sleep. */
struct elio_device *elio_device_open(const char *path, long *error);
struct elio_device *elio_device_get(struct elio_device *device);
void elio_device_put(struct elio_device *device);
int elio_device_hold(struct elio_device *device);
void elio_device_rest(struct elio_device *device);
struct block_device *elio_device_bdev(struct elio_device *device);
u64 elio_device_bytes(struct elio_device *device);
enum elio_mounted {
	ELIO_UNMOUNTED = 0,
	ELIO_READ_ONLY = 1,
	ELIO_READ_WRITE = 2, /* or in the hands of something that is no file system */
};
u32 elio_device_mounted(struct elio_device *device);
int elio_device_refusal(struct elio_device *device);
u64 elio_device_id(struct elio_device *device);
void elio_device_quiesce(struct elio_device *device);
int elio_device_freeze(struct elio_device *device);
int elio_device_thaw(struct elio_device *device);

/* A run of a file's sectors and where they are on the device. */
struct elio_extent {
	u64 file_sector;
	u64 sector;
	u64 sectors;
};

/* cow_file.c: a file on the tracked volume, pinned. In the caller's process context; may sleep. */
int elio_cow_init(void);
void elio_cow_exit(void);
struct elio_cow *elio_cow_create(const char *path, struct elio_device *device, u64 marks_from, u64 marks_to, u64 bytes,
				 long *error);
void elio_cow_settle(struct elio_cow *cow);
int elio_cow_write(struct elio_cow *cow, struct elio_cow *made, u64 offset, const void *memory, size_t bytes,
		   bool sync);
struct elio_cow *elio_cow_find(const char *path, size_t length, struct elio_device *device, long *error);
bool elio_cow_is_mounted(struct elio_cow *cow);
bool elio_cow_is_pinned(struct elio_cow *cow);
const struct elio_extent *elio_cow_extents(const struct elio_cow *cow, u32 *count);
const char *elio_cow_path(const struct elio_cow *cow);
bool elio_cow_is(const struct elio_cow *cow, const char *path);
int elio_cow_truncate(struct elio_cow *cow, u64 bytes);
void elio_cow_close(struct elio_cow *cow);
int elio_cow_remove(struct elio_cow *cow);

/* mount.c: mounts and their superblocks. May sleep. */
int elio_mount_init(void);
void elio_mount_exit(void);
struct super_block *elio_sb_get(const struct block_device *device);
void elio_sb_put(struct super_block *sb);
/* In the task that has just mounted something from a device that has a target. */
void elio_rs_mounted(u64 device);

/* disk.c: a snapshot's block device. May sleep. */
int elio_disk_init(void);
void elio_disk_exit(void);
struct elio_disk *elio_disk_new(u32 minor, struct elio_device *device, struct elio_worker *worker, long *error);
bool elio_disk_claim(struct elio_disk *disk);
void elio_disk_unclaim(struct elio_disk *disk);
bool elio_disk_is_open(struct elio_disk *disk);
void elio_disk_remove(struct elio_disk *disk);
u64 elio_read_offset(const void *read);
u64 elio_read_length(const void *read);
void elio_read_fill(void *read, u64 from, const void *memory, u64 bytes);
void elio_read_send(void *read, struct block_device *device, u64 sector);
void elio_read_end(void *read, int error);
/* Whether the snapshot shows what the origin has there. Under RCU, from any context. */
bool elio_rs_untouched(void *tracker, u64 offset, u64 length);
/* Takes a read of something touched; may sleep unless `nowait`. */
void elio_rs_read(void *tracker, struct elio_event *read, bool nowait);
struct bio *elio_read_bio(void *read);

/*
 * hibernation.c: whether the machine's memory may be put back later; told again when that is over. May
 * sleep.
 */
int elio_hibernation_init(void);
void elio_hibernation_exit(void);
int elio_rs_hibernation(bool begins);

/* control.c, proc.c */
int elio_control_init(void);
void elio_control_exit(void);
long elio_rs_ioctl(u32 command, u64 argument);
int elio_proc_init(void);
void elio_proc_exit(void);
void elio_rs_report(struct seq_file *out);
void elio_proc_put(struct seq_file *out, const u8 *bytes, size_t length);

/* main.c: with the kernel's crate, the module is Rust's, and the parts are one of it. */
int elio_parts_init(void);
void elio_parts_exit(void);
int elio_rs_init(void);
void elio_rs_exit(void);
u32 elio_max_devices(void);
u64 elio_default_cache(void);
u32 elio_default_percentage(void);
bool elio_is_debugging(void);

#endif
