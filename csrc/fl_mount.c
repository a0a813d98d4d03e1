#include "fl_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fl_buf.h"

/* The same numbers on every architecture since 5.2 and 5.12. */
#define NR_OPEN_TREE 428
#define NR_MOVE_MOUNT 429
#define NR_FSOPEN 430
#define NR_FSCONFIG 431
#define NR_FSMOUNT 432
#define NR_MOUNT_SETATTR 442

/* linux/mount.h and linux/stat.h of builds may be older than the kernels we run on. */
enum { SET_FLAG = 0, SET_STRING = 1, SET_FD = 5, CMD_CREATE = 6 };
#define FSOPEN_CLOEXEC_ 0x1u
#define FSMOUNT_CLOEXEC_ 0x1u
#define OPEN_TREE_CLONE_ 0x1u
#define MOVE_MOUNT_F_EMPTY_PATH_ 0x4u
#define MOVE_MOUNT_T_EMPTY_PATH_ 0x40u
#define MOUNT_ATTR_IDMAP_ 0x100000u
#define AT_RECURSIVE_ 0x8000u
#define STATX_MNT_ID_ 0x1000u
#define STATX_MNT_ID_UNIQUE_ 0x4000u
#define STATX_ATTR_MOUNT_ROOT_ 0x2000u

struct attr_arg {
    uint64_t set;
    uint64_t clear;
    uint64_t propagation;
    uint64_t userns;
};

/* struct statx as far as it is needed here. */
struct statx_head {
    uint32_t mask;
    uint32_t blksize;
    uint64_t attributes;
    uint8_t between[128];
    uint64_t mnt_id;
    uint8_t rest[104];
};

static int failed(struct fl_error *err, const char *op, const char *path)
{
    return fl_error_os(err, errno, op, path, path == NULL ? 0 : strlen(path));
}

/* ---- what the kernel says ---- */

/* One message a read, "e text\n" for an error; everything but errors is left out. */
static void read_log(int context, struct fl_error *err)
{
    char line[512];
    size_t used = 0;
    ssize_t n;

    while ((n = read(context, line, sizeof(line) - 1)) > 0) {
        line[n] = '\0';
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "e ", 2) != 0 || used >= sizeof(err->detail))
            continue;
        used += (size_t)snprintf(err->detail + used, sizeof(err->detail) - used, "%s%s",
                                 used == 0 ? "" : "; ", line + 2);
    }
}

static int failed_with_log(int context, struct fl_error *err, const char *op, const char *path)
{
    failed(err, op, path);
    read_log(context, err);
    return -1;
}

/* ---- file systems ---- */

int fl_mount_open(const char *type, struct fl_error *err)
{
    int fd = (int)syscall(NR_FSOPEN, type, FSOPEN_CLOEXEC_);

    return fd < 0 ? failed(err, "fsopen", type) : fd;
}

int fl_mount_set(int context, const char *key, const char *value, int fd, struct fl_error *err)
{
    unsigned command = value != NULL ? SET_STRING : fd >= 0 ? SET_FD : SET_FLAG;

    if (syscall(NR_FSCONFIG, context, command, key, value, command == SET_FD ? fd : 0) < 0)
        return failed_with_log(context, err, key, value);
    return 0;
}

int fl_mount_create(int context, uint32_t attributes, struct fl_error *err)
{
    int fd;

    if (syscall(NR_FSCONFIG, context, CMD_CREATE, NULL, NULL, 0) < 0)
        return failed_with_log(context, err, "mount", NULL);
    fd = (int)syscall(NR_FSMOUNT, context, FSMOUNT_CLOEXEC_, attributes);
    return fd < 0 ? failed_with_log(context, err, "fsmount", NULL) : fd;
}

/* ---- mounts ---- */

int fl_mount_clone(const char *path, bool recursive, struct fl_error *err)
{
    unsigned flags = OPEN_TREE_CLONE_ | O_CLOEXEC | (recursive ? AT_RECURSIVE_ : 0);
    int fd = (int)syscall(NR_OPEN_TREE, AT_FDCWD, path, flags);

    return fd < 0 ? failed(err, "open_tree", path) : fd;
}

int fl_mount_change(int mount, uint64_t set, uint64_t clear, int userns, bool recursive,
                    struct fl_error *err)
{
    struct attr_arg arg = {.set = set, .clear = clear};

    if (userns >= 0) {
        arg.set |= MOUNT_ATTR_IDMAP_;
        arg.userns = (uint64_t)userns;
    }
    if (syscall(NR_MOUNT_SETATTR, mount, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE_ : 0), &arg,
                sizeof(arg)) < 0)
        return failed(err, "mount_setattr", NULL);
    return 0;
}

int fl_mount_attach(int mount, int target, struct fl_error *err)
{
    if (syscall(NR_MOVE_MOUNT, mount, "", target, "",
                MOVE_MOUNT_F_EMPTY_PATH_ | MOVE_MOUNT_T_EMPTY_PATH_) < 0)
        return failed(err, "move_mount", NULL);
    return 0;
}

int fl_mount_detach(const char *path, int flags, struct fl_error *err)
{
    return umount2(path, flags) < 0 ? failed(err, "umount", path) : 0;
}

/* ---- mount(2) ---- */

struct old_call {
    const char *source, *target, *type, *data;
    unsigned long flags;
    int cwd;
    int errnum;
};

static void *call_mount(void *opaque)
{
    struct old_call *c = opaque;
    bool moved = c->cwd < 0 || (unshare(CLONE_FS) == 0 && fchdir(c->cwd) == 0);

    c->errnum = moved && mount(c->source, c->target, c->type, c->flags, c->data) == 0 ? 0 : errno;
    return NULL;
}

int fl_mount_old(const char *source, const char *target, const char *type, unsigned long flags,
                 const char *data, int cwd, struct fl_error *err)
{
    struct old_call call = {source, target, type, data, flags, cwd, 0};
    pthread_t thread;
    int r;

    if (cwd < 0) {
        call_mount(&call);
    } else {
        r = pthread_create(&thread, NULL, call_mount, &call);
        if (r != 0)
            return fl_error_os(err, r, "pthread_create", NULL, 0);
        pthread_join(thread, NULL);
    }
    if (call.errnum != 0)
        return fl_error_os(err, call.errnum, "mount", source, strlen(source));
    return 0;
}

/* ---- identity ---- */

int fl_mount_id(int fd, bool plain, uint64_t *ret_id, struct fl_error *err)
{
    struct statx_head found;

    _Static_assert(sizeof(found) == 256 && offsetof(struct statx_head, mnt_id) == 144, "struct statx");
    memset(&found, 0, sizeof(found));
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, plain ? STATX_MNT_ID_ : STATX_MNT_ID_ | STATX_MNT_ID_UNIQUE_,
                &found) < 0)
        return failed(err, "statx", NULL);
    if (!(found.mask & (STATX_MNT_ID_ | STATX_MNT_ID_UNIQUE_)))
        return fl_error_os(err, ENOSYS, "statx", NULL, 0);
    *ret_id = found.mnt_id;
    return (found.mask & STATX_MNT_ID_UNIQUE_ ? FL_MOUNT_UNIQUE : 0) |
           (found.attributes & STATX_ATTR_MOUNT_ROOT_ ? FL_MOUNT_ROOT : 0);
}

/* ---- a user namespace ---- */

static int write_map(pid_t pid, const char *which, const char *text)
{
    char path[64];
    cleanup_fd int fd = -1;
    size_t length = strlen(text);

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, which);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    return write(fd, text, length) == (ssize_t)length ? 0 : -1;
}

/* In the child, where only plain system calls are safe: tells how it went, and
 * waits until the parent has finished. */
static void live_in_namespace(int report, int wait)
{
    unsigned char how = 0;

    if (unshare(CLONE_NEWUSER) < 0)
        how = (unsigned char)errno;
    if (write(report, &how, 1) == 1)
        (void)!read(wait, &how, 1);
    _exit(0);
}

static int open_namespace(pid_t pid, int report, const char *uid_map, const char *gid_map,
                          struct fl_error *err)
{
    unsigned char how = ECHILD;
    char path[64];
    int fd;

    if (read(report, &how, 1) != 1 || how != 0)
        return fl_error_os(err, how, "unshare", NULL, 0);
    if (write_map(pid, "uid_map", uid_map) < 0 || write_map(pid, "gid_map", gid_map) < 0)
        return failed(err, "id map", NULL);
    snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? failed(err, "open", path) : fd;
}

int fl_mount_userns(const char *uid_map, const char *gid_map, struct fl_error *err)
{
    int up[2], down[2], fd;
    pid_t pid;

    if (pipe2(up, O_CLOEXEC) < 0)
        return failed(err, "pipe", NULL);
    if (pipe2(down, O_CLOEXEC) < 0) {
        failed(err, "pipe", NULL);
        close(up[0]), close(up[1]);
        return -1;
    }
    pid = fork();
    if (pid == 0) {
        close(down[1]);
        live_in_namespace(up[1], down[0]);
    }
    close(up[1]), close(down[0]);
    fd = pid < 0 ? failed(err, "fork", NULL) : open_namespace(pid, up[0], uid_map, gid_map, err);
    close(up[0]), close(down[1]); /* lets the child go */
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return fd;
}
