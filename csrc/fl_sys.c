#include "fl_sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/btrfs.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The same numbers on every architecture since 5.6, 6.6 and 6.13. */
#define NR_OPENAT2 437
#define NR_FCHMODAT2 452
#define NR_SETXATTRAT 463
#define NR_GETXATTRAT 464
#define NR_LISTXATTRAT 465
#define NR_REMOVEXATTRAT 466

#define OPEN_RETRIES 256

struct xattr_arg {
    uint64_t value;
    uint32_t size;
    uint32_t flags;
};

enum { UNKNOWN = 0, NO = 1, YES = 2 };

static atomic_int openat2_state;
static atomic_int xattrat_state;

/* ---- openat2 ---- */

static int probe_openat2(void)
{
    struct open_how how = { .flags = O_PATH | O_CLOEXEC };
    const char *off = getenv("FASTLAYER_NO_OPENAT2");
    int fd;

    if (off != NULL && strcmp(off, "1") == 0)
        return NO;
    fd = (int)syscall(NR_OPENAT2, AT_FDCWD, "/", &how, sizeof(how));
    if (fd < 0)
        return errno == ENOSYS || errno == EPERM ? NO : YES;
    close(fd);
    return YES;
}

bool fl_sys_has_openat2(void)
{
    int state = atomic_load_explicit(&openat2_state, memory_order_relaxed);

    if (state == UNKNOWN) {
        state = probe_openat2();
        atomic_store_explicit(&openat2_state, state, memory_order_relaxed);
    }
    return state == YES;
}

int fl_sys_openat2(int dirfd, const char *path, int flags, mode_t mode,
                   uint64_t resolve)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC),
        .mode = flags & O_CREAT ? mode : 0,
        .resolve = resolve,
    };
    int fd = -1;

    if (!fl_sys_has_openat2()) {
        errno = ENOSYS;
        return -1;
    }
    for (int i = 0; i < OPEN_RETRIES; i++) {
        fd = (int)syscall(NR_OPENAT2, dirfd, path, &how, sizeof(how));
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    return fd;
}

ssize_t fl_sys_getdents64(int fd, void *buf, size_t size)
{
    return syscall(SYS_getdents64, fd, buf, size);
}

/* ---- extended attributes below a directory ---- */

static bool has_xattrat(void)
{
    int state = atomic_load_explicit(&xattrat_state, memory_order_relaxed);

    if (state == UNKNOWN) {
        long r = syscall(NR_LISTXATTRAT, AT_FDCWD, "/", AT_SYMLINK_NOFOLLOW,
                         NULL, (size_t)0);
        /* A sandbox may answer EPERM for calls it does not know. */
        state = r < 0 && (errno == ENOSYS || errno == EPERM) ? NO : YES;
        atomic_store_explicit(&xattrat_state, state, memory_order_relaxed);
    }
    return state == YES;
}

static int proc_path(char *out, size_t size, int dirfd, const char *name)
{
    int n = snprintf(out, size, "/proc/self/fd/%d/%s", dirfd, name);

    if (n < 0 || (size_t)n >= size) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return 0;
}

#define PROC_PATH_MAX 320 /* "/proc/self/fd/" + an int + "/" + NAME_MAX + NUL */

ssize_t fl_sys_listxattrat(int dirfd, const char *name, char *list, size_t size)
{
    char path[PROC_PATH_MAX];

    if (name[0] == '\0')
        return flistxattr(dirfd, list, size);
    if (has_xattrat())
        return syscall(NR_LISTXATTRAT, dirfd, name, AT_SYMLINK_NOFOLLOW, list,
                       size);
    if (proc_path(path, sizeof(path), dirfd, name) < 0)
        return -1;
    return llistxattr(path, list, size);
}

ssize_t fl_sys_getxattrat(int dirfd, const char *name, const char *attr,
                          void *value, size_t size)
{
    struct xattr_arg arg = { (uint64_t)(uintptr_t)value, (uint32_t)size, 0 };
    char path[PROC_PATH_MAX];

    if (name[0] == '\0')
        return fgetxattr(dirfd, attr, value, size);
    if (has_xattrat())
        return syscall(NR_GETXATTRAT, dirfd, name, AT_SYMLINK_NOFOLLOW, attr,
                       &arg, sizeof(arg));
    if (proc_path(path, sizeof(path), dirfd, name) < 0)
        return -1;
    return lgetxattr(path, attr, value, size);
}

int fl_sys_setxattrat(int dirfd, const char *name, const char *attr,
                      const void *value, size_t size, int flags)
{
    struct xattr_arg arg = { (uint64_t)(uintptr_t)value, (uint32_t)size,
                             (uint32_t)flags };
    char path[PROC_PATH_MAX];

    if (name[0] == '\0')
        return fsetxattr(dirfd, attr, value, size, flags);
    if (has_xattrat())
        return (int)syscall(NR_SETXATTRAT, dirfd, name, AT_SYMLINK_NOFOLLOW,
                            attr, &arg, sizeof(arg));
    if (proc_path(path, sizeof(path), dirfd, name) < 0)
        return -1;
    return lsetxattr(path, attr, value, size, flags);
}

int fl_sys_removexattrat(int dirfd, const char *name, const char *attr)
{
    char path[PROC_PATH_MAX];

    if (name[0] == '\0')
        return fremovexattr(dirfd, attr);
    if (has_xattrat())
        return (int)syscall(NR_REMOVEXATTRAT, dirfd, name, AT_SYMLINK_NOFOLLOW,
                            attr);
    if (proc_path(path, sizeof(path), dirfd, name) < 0)
        return -1;
    return lremovexattr(path, attr);
}

/* ---- modes ---- */

static int chmod_by_proc(int dirfd, const char *name, mode_t mode)
{
    char path[PROC_PATH_MAX];
    struct stat st;
    int fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    int r = -1, saved;

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && S_ISLNK(st.st_mode))
        errno = EOPNOTSUPP;
    else if (snprintf(path, sizeof(path), "/proc/self/fd/%d", fd) > 0)
        r = chmod(path, mode);
    saved = errno;
    close(fd);
    errno = saved;
    return r;
}

int fl_sys_chmod_nofollow(int dirfd, const char *name, mode_t mode)
{
    int r = (int)syscall(NR_FCHMODAT2, dirfd, name, mode, AT_SYMLINK_NOFOLLOW);

    if (r < 0 && (errno == ENOSYS || errno == EPERM))
        return chmod_by_proc(dirfd, name, mode); /* EPERM: or a sandbox that does not know it */
    return r;
}

/* ---- mounts ---- */

static int mount_id_by_proc(int fd, uint64_t *ret_id)
{
    char path[PROC_PATH_MAX], text[1024], *line;
    ssize_t n;
    int info;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    info = open(path, O_RDONLY | O_CLOEXEC);
    if (info < 0)
        return -1;
    n = read(info, text, sizeof(text) - 1);
    close(info);
    text[n < 0 ? 0 : n] = '\0';
    line = strstr(text, "mnt_id:");
    if (line == NULL) {
        errno = ENOSYS;
        return -1;
    }
    *ret_id = strtoull(line + strlen("mnt_id:"), NULL, 10);
    return 0;
}

int fl_sys_mount_id(int fd, uint64_t *ret_id)
{
    struct statx st;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) < 0 || !(st.stx_mask & STATX_MNT_ID))
        return mount_id_by_proc(fd, ret_id);
    *ret_id = st.stx_mnt_id;
    return 0;
}

/* ---- copying and renaming ---- */

int fl_sys_ficlone(int dst, int src)
{
    return ioctl(dst, FICLONE, src);
}

int fl_sys_ficlonerange(int dst, int64_t dst_off, int src, int64_t src_off, uint64_t len)
{
    struct file_clone_range range = {src, (uint64_t)src_off, len, (uint64_t)dst_off};

    return ioctl(dst, FICLONERANGE, &range);
}

ssize_t fl_sys_copy_file_range(int in, int64_t *in_pos, int out,
                               int64_t *out_pos, size_t len)
{
    return syscall(SYS_copy_file_range, in, in_pos, out, out_pos, len, 0u);
}

int fl_sys_renameat2(int olddir, const char *oldname, int newdir,
                     const char *newname, unsigned int flags)
{
    return (int)syscall(SYS_renameat2, olddir, oldname, newdir, newname, flags);
}

/* ---- shared extents ---- */

#define EXTENTS 32u

/* Extents that say nothing certain about where the bytes are. */
#define VAGUE                                                              \
    (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED | \
     FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL |                 \
     FIEMAP_EXTENT_NOT_ALIGNED)

struct extent_map {
    struct fiemap head;
    struct fiemap_extent extents[EXTENTS];
};

static int read_map(int fd, uint64_t start, bool sync, struct extent_map *map)
{
    memset(&map->head, 0, sizeof(map->head));
    map->head.fm_start = start;
    map->head.fm_length = FIEMAP_MAX_OFFSET - start;
    map->head.fm_flags = sync && start == 0 ? FIEMAP_FLAG_SYNC : 0;
    map->head.fm_extent_count = EXTENTS;
    return ioctl(fd, FS_IOC_FIEMAP, &map->head);
}

/* The extents of a file one after another. */
struct extent_walk {
    struct extent_map map;
    int fd;
    uint32_t at;
    uint64_t next;
    bool last;
    bool lazy; /* leave dirty pages alone */
};

/* The next extent that holds data: what is allocated but never written reads as
 * zeros, as holes do, and a copy that shares the blocks need not have it. NULL
 * at the end, or with *ret_failed. */
static const struct fiemap_extent *next_data(struct extent_walk *w, bool *ret_failed)
{
    for (;;) {
        const struct fiemap_extent *e;

        if (w->at == w->map.head.fm_mapped_extents) {
            if (w->last)
                return NULL;
            *ret_failed |= read_map(w->fd, w->next, !w->lazy, &w->map) < 0;
            w->at = 0;
            if (*ret_failed || w->map.head.fm_mapped_extents == 0)
                return NULL;
        }
        e = &w->map.extents[w->at++];
        *ret_failed |= e->fe_length == 0;
        w->last = *ret_failed || (e->fe_flags & FIEMAP_EXTENT_LAST) != 0;
        w->next = e->fe_logical + e->fe_length;
        if (!(e->fe_flags & FIEMAP_EXTENT_UNWRITTEN) || (e->fe_flags & VAGUE))
            return e;
    }
}

static bool same_extent(const struct fiemap_extent *a, const struct fiemap_extent *b)
{
    return !((a->fe_flags | b->fe_flags) & VAGUE) && a->fe_logical == b->fe_logical &&
           a->fe_length == b->fe_length && a->fe_physical == b->fe_physical;
}

int fl_sys_same_extents(int a, int b)
{
    struct extent_walk wa = {.fd = a}, wb = {.fd = b};
    const struct fiemap_extent *ea, *eb;
    bool failed = false;

    do {
        ea = next_data(&wa, &failed);
        eb = next_data(&wb, &failed);
        if (failed || (ea == NULL) != (eb == NULL) || (ea != NULL && !same_extent(ea, eb)))
            return 0;
    } while (ea != NULL);
    return 1;
}

uint64_t fl_sys_shared_bytes(int fd)
{
    struct extent_walk walk = {.fd = fd, .lazy = true};
    const struct fiemap_extent *e;
    bool failed = false;
    uint64_t sum = 0;

    while ((e = next_data(&walk, &failed)) != NULL && !failed)
        sum += e->fe_flags & FIEMAP_EXTENT_SHARED ? e->fe_length : 0;
    return sum;
}

/* Subvolumes of one btrfs have device numbers of their own. */
static bool same_btrfs(int a, int b)
{
    struct btrfs_ioctl_fs_info_args fa, fb;

    memset(&fa, 0, sizeof(fa));
    memset(&fb, 0, sizeof(fb));
    return ioctl(a, BTRFS_IOC_FS_INFO, &fa) == 0 && ioctl(b, BTRFS_IOC_FS_INFO, &fb) == 0 &&
           memcmp(fa.fsid, fb.fsid, sizeof(fa.fsid)) == 0;
}

bool fl_sys_can_share(int a, int b)
{
    struct statfs fs_a, fs_b;
    struct stat st_a, st_b;

    if (fstatfs(a, &fs_a) < 0 || fstatfs(b, &fs_b) < 0 || fstat(a, &st_a) < 0 ||
        fstat(b, &st_b) < 0 || fs_a.f_type != fs_b.f_type)
        return false;
    switch ((uint32_t)fs_a.f_type) {
    case 0x9123683Eu: /* btrfs */
        return st_a.st_dev == st_b.st_dev || same_btrfs(a, b);
    case 0x58465342u: /* xfs */
    case 0xCA451A4Eu: /* bcachefs */
    case 0x7461636Fu: /* ocfs2 */
        return st_a.st_dev == st_b.st_dev;
    default:
        return false;
    }
}

bool fl_sys_overrides_permissions(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

    memset(data, 0, sizeof(data));
    if (syscall(SYS_capget, &head, data) < 0)
        return geteuid() == 0;
    return data[0].effective >> CAP_DAC_OVERRIDE & 1;
}
