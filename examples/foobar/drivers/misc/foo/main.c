// SPDX-License-Identifier: GPL-2.0-or-later
/* A driver that another one builds on. */
#include <linux/atomic.h>
#include <linux/foo.h>
#include <linux/module.h>

static atomic_t greetings;

int foo_count(const char *whom)
{
	int number = atomic_inc_return(&greetings);

	pr_info("foo: greeting %d is for %s\n", number, whom);
	return number;
}
EXPORT_SYMBOL_GPL(foo_count);

static int __init foo_init(void)
{
	return 0;
}
module_init(foo_init);

static void __exit foo_exit(void)
{
}
module_exit(foo_exit);

MODULE_DESCRIPTION("A driver that another one builds on");
MODULE_AUTHOR("The pkgkmod developers");
MODULE_LICENSE("GPL");
MODULE_VERSION("1.0");
