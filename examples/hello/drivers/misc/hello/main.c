// SPDX-License-Identifier: GPL-2.0-or-later
/* A driver that greets: small enough to read, and a whole module all the same. */
#include <linux/init.h>
#include <linux/kconfig.h>
#include <linux/module.h>

static char *whom = "world";
module_param(whom, charp, 0444);
MODULE_PARM_DESC(whom, "Whom to greet");

static int __init hello_init(void)
{
	pr_info("hello, %s%s\n", whom, IS_ENABLED(CONFIG_HELLO_LOUD) ? "!" : "");
	return 0;
}
module_init(hello_init);

static void __exit hello_exit(void)
{
	pr_info("goodbye, %s\n", whom);
}
module_exit(hello_exit);

MODULE_DESCRIPTION("A driver that greets");
MODULE_AUTHOR("The pkgkmod developers");
MODULE_LICENSE("GPL");
MODULE_VERSION("1.0");
