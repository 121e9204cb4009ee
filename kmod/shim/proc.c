// SPDX-License-Identifier: GPL-2.0-only
/* The list of devices, under the name of the documents and under that of the C driver. */
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "shim.h"

static const char *const elio_proc_names[] = { "elastio-info", "elastio-snap-info" };

static int elio_proc_show(struct seq_file *out, void *unused)
{
	elio_rs_report(out);
	return 0;
}

void elio_proc_put(struct seq_file *out, const u8 *bytes, size_t length)
{
	seq_write(out, bytes, length);
}

int elio_proc_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(elio_proc_names); i++) {
		if (!proc_create_single(elio_proc_names[i], 0444, NULL, elio_proc_show)) {
			elio_proc_exit();
			return -ENOMEM;
		}
	}
	return 0;
}

void elio_proc_exit(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(elio_proc_names); i++)
		remove_proc_subtree(elio_proc_names[i], NULL);
}
