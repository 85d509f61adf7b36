// SPDX-License-Identifier: GPL-2.0-or-later
/* A driver that builds on another one. */
#include <linux/foo.h>
#include <linux/module.h>

static int __init bar_init(void)
{
	return foo_count("bar") > 0 ? 0 : -EINVAL;
}
module_init(bar_init);

static void __exit bar_exit(void)
{
}
module_exit(bar_exit);

MODULE_DESCRIPTION("A driver that builds on another one");
MODULE_AUTHOR("The pkgkmod developers");
MODULE_LICENSE("GPL");
MODULE_VERSION("1.0");
