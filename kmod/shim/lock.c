// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mutexes and signals. A signal that was raised stays so until one task has waited for it; raising
 * it again costs next to nothing, because every completion may do it.
 */
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/wait.h>

#include "shim.h"

void *elio_mutex_new(void)
{
	struct mutex *mutex = kmalloc(sizeof(*mutex), GFP_KERNEL);

	if (mutex)
		mutex_init(mutex);
	return mutex;
}

void elio_mutex_lock(void *mutex)
{
	mutex_lock(mutex);
}

bool elio_mutex_try_lock(void *mutex)
{
	return mutex_trylock(mutex);
}

void elio_mutex_unlock(void *mutex)
{
	mutex_unlock(mutex);
}

void elio_mutex_free(void *mutex)
{
	mutex_destroy(mutex);
	kfree(mutex);
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
