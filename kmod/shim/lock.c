// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mutexes and signals. A mutex is unlocked by the task that locked it, or two would be inside: that
 * is checked, because kernels without debugging do not. A signal that was raised stays so until one
 * task has waited for it; raising it again costs next to nothing, because every completion may do it.
 */
#include <linux/lockdep.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/wait.h>

#include "shim.h"

struct elio_mutex {
	struct mutex mutex;
	struct task_struct *holder;
};

/* To the kernel's lock debugging each rank is a class; as many as kapi::Rank has. */
static struct lock_class_key elio_ranks[3];

void *elio_mutex_new(u32 rank)
{
	struct elio_mutex *lock = kzalloc(sizeof(*lock), GFP_KERNEL);

	if (lock) {
		mutex_init(&lock->mutex);
		lockdep_set_class(&lock->mutex, &elio_ranks[rank]);
	}
	return lock;
}

void elio_mutex_lock(void *memory)
{
	struct elio_mutex *lock = memory;

	mutex_lock(&lock->mutex);
	lock->holder = current;
}

bool elio_mutex_try_lock(void *memory)
{
	struct elio_mutex *lock = memory;

	if (!mutex_trylock(&lock->mutex))
		return false;
	lock->holder = current;
	return true;
}

void elio_mutex_unlock(void *memory)
{
	struct elio_mutex *lock = memory;

	WARN_ON_ONCE(lock->holder != current);
	lock->holder = NULL;
	mutex_unlock(&lock->mutex);
}

void elio_mutex_free(void *memory)
{
	struct elio_mutex *lock = memory;

	mutex_destroy(&lock->mutex);
	kfree(lock);
}

struct elio_signal {
	wait_queue_head_t queue;
	int raised;
};

void *elio_signal_new(void)
{
	struct elio_signal *signal = kzalloc(sizeof(*signal), GFP_KERNEL);

	if (signal)
		init_waitqueue_head(&signal->queue);
	return signal;
}

void elio_signal_raise(void *memory)
{
	struct elio_signal *signal = memory;

	/* Whoever takes a raise that was there already also sees what this one is about. */
	smp_mb();
	if (READ_ONCE(signal->raised))
		return;
	WRITE_ONCE(signal->raised, 1);
	wake_up(&signal->queue);
}

void elio_signal_wait(void *memory)
{
	struct elio_signal *signal = memory;

	wait_event(signal->queue, xchg(&signal->raised, 0));
}

void elio_signal_free(void *signal)
{
	kfree(signal);
}

/* Until every elio_rs_test() that began before is over. */
void elio_rcu_wait(void)
{
	synchronize_rcu();
}
