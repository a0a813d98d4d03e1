/* System calls that libc lacks, and feature probes.
 *
 * The functions behave like the raw calls: -1 with errno on failure. The
 * probes run once per process and are the engine's only global state.
 */
#ifndef FL_SYS_H
#define FL_SYS_H

#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Whether openat2 is there and wanted: FASTLAYER_NO_OPENAT2=1 switches it off. */
bool fl_sys_has_openat2(void);

/* O_CLOEXEC is added. Tried again while the kernel answers EAGAIN (a rename
 * somewhere raced with the resolution), at most a few hundred times. */
int fl_sys_openat2(int dir_fd, const char *path, int flags, mode_t mode,
                   uint64_t resolve);

#endif
