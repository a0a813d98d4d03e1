/* System calls that libc lacks or that old kernels lack, and feature probes.
 *
 * Unless said otherwise a function behaves like the call it names: -1 and
 * errno. Where a kernel is too old the stated fallback answers instead, so
 * callers need not ask; the probes are cached for the process (the only global
 * state of csrc) and safe from any thread.
 *
 * Names are NUL-terminated. "At" functions take one name below an open
 * directory and never follow a symbolic link at its end; a name of "" means
 * dirfd itself, which must then be open for reading (not O_PATH).
 */
#ifndef FL_SYS_H
#define FL_SYS_H

#include <linux/openat2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* False on kernels before 5.6, where a sandbox forbids it, or when the
 * environment had FASTLAYER_NO_OPENAT2=1 at the first call. */
bool fl_sys_has_openat2(void);

/* O_CLOEXEC is added to flags; mode is used with O_CREAT only. ENOSYS when
 * fl_sys_has_openat2() is false. EAGAIN (a rename raced with "..") is retried. */
int fl_sys_openat2(int dirfd, const char *path, int flags, mode_t mode,
                   uint64_t resolve);

ssize_t fl_sys_getdents64(int fd, void *buf, size_t size);

/* listxattrat/getxattrat/setxattrat/removexattrat of Linux 6.13; before it the
 * l*xattr calls on /proc/self/fd/DIRFD/NAME. `flags` are XATTR_CREATE, ... */
ssize_t fl_sys_listxattrat(int dirfd, const char *name, char *list, size_t size);
ssize_t fl_sys_getxattrat(int dirfd, const char *name, const char *attr,
                          void *value, size_t size);
int fl_sys_setxattrat(int dirfd, const char *name, const char *attr,
                      const void *value, size_t size, int flags);
int fl_sys_removexattrat(int dirfd, const char *name, const char *attr);

/* chmod of a name that may be anything but a symbolic link (EOPNOTSUPP):
 * fchmodat2 of Linux 6.6, before it through an O_PATH descriptor and /proc. */
int fl_sys_chmod_nofollow(int dirfd, const char *name, mode_t mode);

/* Is this thread free of the permissions of files (CAP_DAC_OVERRIDE, effective)?
 * Root usually is, but not in a container that has dropped the capability. */
bool fl_sys_overrides_permissions(void);

/* ioctl FICLONE: dst gets all of src's extents, shared. */
int fl_sys_ficlone(int dst, int src);

/* ioctl FICLONERANGE: len bytes, not 0, of src from src_off are at dst_off of dst, too. Whole blocks, or up to src's end. */
int fl_sys_ficlonerange(int dst, int64_t dst_off, int src, int64_t src_off, uint64_t len);

ssize_t fl_sys_copy_file_range(int in, int64_t *in_pos, int out,
                               int64_t *out_pos, size_t len);

/* flags: RENAME_NOREPLACE (1), RENAME_EXCHANGE (2). */
int fl_sys_renameat2(int olddir, const char *oldname, int newdir,
                     const char *newname, unsigned int flags);

/* Of the mount that fd is reached through (statx, before Linux 5.8 /proc/self/fdinfo): a bind mount has the
 * device number of its origin. 0, or -1 and errno. */
int fl_sys_mount_id(int fd, uint64_t *ret_id);

/* Do both files (equal size, neither being written) have the same physical
 * blocks wherever they hold data? 1 proven; 0 not proven: no such answer from
 * this file system, inline or compressed data, or really different. Dirty pages
 * are written out first: with copy-on-write pending, the old map would lie. */
int fl_sys_same_extents(int a, int b);

/* Bytes of the file in blocks that other files have, too; 0 where the file
 * system does not tell. What is still in memory only is not looked at. */
uint64_t fl_sys_shared_bytes(int fd);

/* Are both files on one file system, and one that can share extents (btrfs, xfs,
 * bcachefs, ocfs2)? Only then do extents at the same place mean the same bytes,
 * and is fl_sys_same_extents worth its system calls. */
bool fl_sys_can_share(int a, int b);

#endif
