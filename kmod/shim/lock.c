// SPDX-License-Identifier: GPL-2.0-only
/* Mutexes and signals. A signal counts: each raise lets one wait go. */
#include <linux/completion.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

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

void elio_mutex_unlock(void *mutex)
{
	mutex_unlock(mutex);
}

void elio_mutex_free(void *mutex)
{
	mutex_destroy(mutex);
	kfree(mutex);
}

void *elio_signal_new(void)
{
	struct completion *signal = kmalloc(sizeof(*signal), GFP_KERNEL);

	if (signal)
		init_completion(signal);
	return signal;
}

void elio_signal_raise(void *signal)
{
	complete(signal);
}

void elio_signal_wait(void *signal)
{
	wait_for_completion(signal);
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
