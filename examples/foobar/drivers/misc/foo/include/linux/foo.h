/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_FOO_H
#define _LINUX_FOO_H

/* Counts a greeting, and returns how many there were. */
int foo_count(const char *whom);

#endif
