// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A doorbell: reading /dev/doorbell tells how often it rang, writing rings. What differs between kernels is asked of
 * the kernel, not of its version.
 */
#include <compat/config.h>

#include <linux/atomic.h>
#include <linux/cdev.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/module.h>

static atomic_t rings = ATOMIC_INIT(0);
static struct class *doorbell_class;
static struct cdev doorbell_cdev;
static dev_t number;

static struct class *make_class(const char *name)
{
#ifdef HAVE_CLASS_CREATE_1ARG
	return class_create(name);
#else
	return class_create(THIS_MODULE, name);
#endif
}

static ssize_t doorbell_read(struct file *file, char __user *buffer, size_t size, loff_t *position)
{
	char text[16];
	int length = scnprintf(text, sizeof(text), "%d\n", atomic_read(&rings));

	return simple_read_from_buffer(buffer, size, position, text, length);
}

static ssize_t doorbell_write(struct file *file, const char __user *buffer, size_t size, loff_t *position)
{
	atomic_inc(&rings);
	return size;
}

static const struct file_operations doorbell_operations = {
	.owner = THIS_MODULE,
	.read = doorbell_read,
	.write = doorbell_write,
};

static int __init doorbell_init(void)
{
	struct device *device;
	int error = alloc_chrdev_region(&number, 0, 1, "doorbell");

	if (error)
		return error;
	cdev_init(&doorbell_cdev, &doorbell_operations);
	error = cdev_add(&doorbell_cdev, number, 1);
	if (error)
		goto no_cdev;
	doorbell_class = make_class("doorbell");
	if (IS_ERR(doorbell_class)) {
		error = PTR_ERR(doorbell_class);
		goto no_class;
	}
	device = device_create(doorbell_class, NULL, number, NULL, "doorbell");
	if (IS_ERR(device)) {
		error = PTR_ERR(device);
		goto no_device;
	}
	return 0;

no_device:
	class_destroy(doorbell_class);
no_class:
	cdev_del(&doorbell_cdev);
no_cdev:
	unregister_chrdev_region(number, 1);
	return error;
}
module_init(doorbell_init);

static void __exit doorbell_exit(void)
{
	device_destroy(doorbell_class, number);
	class_destroy(doorbell_class);
	cdev_del(&doorbell_cdev);
	unregister_chrdev_region(number, 1);
}
module_exit(doorbell_exit);

MODULE_DESCRIPTION("A doorbell that asks its kernel what it can do");
MODULE_AUTHOR("The pkgkmod developers");
MODULE_LICENSE("GPL");
