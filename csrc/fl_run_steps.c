#include "fl_run_private.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fl_buf.h"

/* The same numbers on every architecture. */
#define NR_OPEN_TREE 428
#define NR_MOVE_MOUNT 429
#define NR_MOUNT_SETATTR 442
#define OPEN_TREE_CLONE_ 0x1u
#define MOVE_MOUNT_F_EMPTY_PATH_ 0x4u
#define MOVE_MOUNT_T_SYMLINKS_ 0x10u
#define MOUNT_ATTR_RDONLY_ 0x1u
#define MOUNT_ATTR_NODEV_ 0x4u
#define AT_RECURSIVE_ 0x8000u

struct attr_arg {
    uint64_t set, clear, propagation, userns;
};

static int set_attributes(int mount, uint64_t set, bool below)
{
    struct attr_arg arg = {.set = set};
    unsigned flags = AT_EMPTY_PATH | (below ? AT_RECURSIVE_ : 0);

    return (int)syscall(NR_MOUNT_SETATTR, mount, "", flags, &arg, sizeof(arg));
}

static int copy_tree(int dir, const char *path)
{
    return (int)syscall(NR_OPEN_TREE, dir, path, OPEN_TREE_CLONE_ | O_CLOEXEC | AT_RECURSIVE_ | AT_EMPTY_PATH);
}

static int attach(int mount, const char *path)
{
    return (int)syscall(NR_MOVE_MOUNT, mount, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH_ | MOVE_MOUNT_T_SYMLINKS_);
}

/* A copy of a shared mount is its peer: what is mounted on the one would appear on the other, unless that is wanted. */
static int copy_apart(const char *path, uint64_t how)
{
    uint64_t propagation = how & (MS_SLAVE | MS_SHARED);
    struct attr_arg arg = {.propagation = propagation != 0 ? propagation : MS_PRIVATE};
    unsigned below = how & FL_RUN_TREE_ALONE ? 0 : AT_RECURSIVE_;
    cleanup_fd int copy = (int)syscall(NR_OPEN_TREE, AT_FDCWD, path, OPEN_TREE_CLONE_ | O_CLOEXEC | below);

    if (copy < 0 || syscall(NR_MOUNT_SETATTR, copy, "", AT_EMPTY_PATH | below, &arg, sizeof(arg)) < 0)
        return -1;
    return fl_steal_fd(&copy);
}

static int keep(const struct fl_run *run, int slot, int fd)
{
    if (fd < 0)
        return -1;
    run->slots[slot] = fd;
    return 0;
}

static int wait_for_maps(const struct fl_run *run)
{
    char byte;

    fl_run_tell(run->report, FL_RUN_MAP, 0, (int)getpid());
    if (read(run->life, &byte, 1) == 1)
        return 0;
    errno = ECANCELED;
    return -1;
}

#ifdef SYS_setresuid32
#define SETRESUID SYS_setresuid32
#define SETRESGID SYS_setresgid32
#else
#define SETRESUID SYS_setresuid
#define SETRESGID SYS_setresgid
#endif

/* Raw: libc would ask threads that were left behind to do the same. */
static int become_root(void)
{
    return syscall(SETRESGID, 0, 0, 0) < 0 || syscall(SETRESUID, 0, 0, 0) < 0 ? -1 : 0;
}

/* pivot_root(2), "pivot_root(".", ".")": the old root comes to lie on the new one, and is taken off. */
static int pivot(int root)
{
    if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0)
        return -1;
    return chdir("/");
}

static int enter_directory(int dir)
{
    return fchdir(dir) < 0 || chroot(".") < 0 ? -1 : chdir("/");
}

static int write_file(const char *path, const char *text)
{
    cleanup_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    size_t length = text == NULL ? 0 : strlen(text);

    if (fd < 0)
        return -1;
    return write(fd, text, length) == (ssize_t)length ? 0 : -1;
}

static int check_plain(const char *path)
{
    struct stat found;

    if (lstat(path, &found) < 0)
        return -1;
    errno = ENOTDIR;
    return S_ISDIR(found.st_mode) ? 0 : -1;
}

static bool is_absent(void)
{
    return errno == ENOENT || errno == ENOTDIR || errno == EACCES;
}

static int mask(const char *path, const char *file)
{
    struct stat found;
    cleanup_fd int copy = -1;

    if (stat(path, &found) < 0)
        return is_absent() ? 0 : -1;
    if (S_ISDIR(found.st_mode))
        return mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0k,nr_inodes=1");
    copy = copy_tree(AT_FDCWD, file);
    if (copy < 0 || fstat(copy, &found) < 0)
        return -1;
    if (!S_ISCHR(found.st_mode) || found.st_rdev != makedev(1, 3)) {
        errno = EPERM; /* what lies there instead would be shown in place of what is hidden (CVE-2025-31133) */
        return -1;
    }
    return attach(copy, path);
}

static int lock(const char *path)
{
    cleanup_fd int copy = copy_tree(AT_FDCWD, path);

    if (copy < 0)
        return is_absent() ? 0 : -1;
    return set_attributes(copy, MOUNT_ATTR_RDONLY_, true) < 0 ? -1 : attach(copy, path);
}

static int set_up_loopback(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    cleanup_fd int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    return ioctl(fd, SIOCSIFFLAGS, &request);
}

static int make_below_root(const struct fl_run_step *step)
{
    cleanup_fd int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return root < 0 ? -1 : fl_run_stub_make(root, step->one, step->number != 0, NULL);
}

static int write_text(const char *path, const char *text)
{
    cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
    size_t length = strlen(text);

    return fd >= 0 && write(fd, text, length) == (ssize_t)length ? 0 : -1;
}

/* Steps about what a running container is; -2 for others. */
static int do_containers(const struct fl_run *run, const struct fl_run_step *s)
{
    switch (s->op & ~FL_RUN_STEP_OPTIONAL) {
    case FL_RUN_STEP_SETNS: return setns(run->slots[s->slot], (int)s->number);
    case FL_RUN_STEP_JOIN: return write(run->slots[s->slot], "0", 1) == 1 ? 0 : -1;
    case FL_RUN_STEP_TERMINAL: return fl_run_open_terminal(run, s);
    case FL_RUN_STEP_WRITE: return write_text(s->one, s->two);
    case FL_RUN_STEP_HIDE: return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    default: return -2;
    }
}

/* Steps about names and the process; -2 for those about mounts. */
static int do_plain(const struct fl_run *run, const struct fl_run_step *s, struct fl_run_stubs *stubs)
{
    switch (s->op & ~FL_RUN_STEP_OPTIONAL) {
    case FL_RUN_STEP_UNSHARE: return unshare((int)s->number);
    case FL_RUN_STEP_MAP: return wait_for_maps(run);
    case FL_RUN_STEP_ROOT_IDS: return become_root();
    case FL_RUN_STEP_OPEN: return keep(run, s->slot, open(s->one, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    case FL_RUN_STEP_CHDIR: return chdir(s->one);
    case FL_RUN_STEP_CHROOT: return enter_directory(run->slots[s->slot]);
    case FL_RUN_STEP_STUB:
        return fl_run_stub_make(run->slots[s->slot], s->one, (s->number & FL_RUN_STUB_DIRECTORY) != 0,
                                s->number & FL_RUN_STUB_STAYS ? NULL : stubs);
    case FL_RUN_STEP_MAKE: return make_below_root(s);
    case FL_RUN_STEP_DIRECTORY: return mkdir(s->one, (mode_t)s->number);
    case FL_RUN_STEP_SYMLINK: return symlink(s->one, s->two);
    case FL_RUN_STEP_FILE: return write_file(s->one, s->two);
    case FL_RUN_STEP_UNLINK: return unlink(s->one);
    case FL_RUN_STEP_PLAIN: return check_plain(s->one);
    case FL_RUN_STEP_HOSTNAME: return sethostname(s->one, strlen(s->one));
    case FL_RUN_STEP_LOOPBACK: return set_up_loopback();
    default: return -2;
    }
}

static int do_mounts(const struct fl_run *run, const struct fl_run_step *s)
{
    switch (s->op & ~FL_RUN_STEP_OPTIONAL) {
    case FL_RUN_STEP_PRIVATE: return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    case FL_RUN_STEP_TREE: return keep(run, s->slot, copy_apart(s->one, (uint64_t)s->number));
    case FL_RUN_STEP_READONLY: return set_attributes(run->slots[s->slot], MOUNT_ATTR_RDONLY_, s->number != FL_RUN_TREE_ALONE);
    case FL_RUN_STEP_NODEV: return set_attributes(run->slots[s->slot], MOUNT_ATTR_NODEV_, true);
    case FL_RUN_STEP_ATTACH: return attach(run->slots[s->slot], s->one);
    case FL_RUN_STEP_MOUNT: return mount(s->one, s->two, s->one, (unsigned long)s->number, s->three);
    case FL_RUN_STEP_PIVOT: return pivot(run->slots[s->slot]);
    case FL_RUN_STEP_MASK: return mask(s->one, s->two);
    case FL_RUN_STEP_LOCK: return lock(s->one);
    case FL_RUN_STEP_UMOUNT: return umount2(s->one, MNT_DETACH | UMOUNT_NOFOLLOW);
    default: errno = ENOSYS; return -1;
    }
}

int fl_run_step(const struct fl_run *run, const struct fl_run_step *step, struct fl_run_stubs *stubs)
{
    int r = do_plain(run, step, stubs);

    if (r == -2)
        r = do_containers(run, step);
    if (r == -2)
        r = do_mounts(run, step);
    return r < 0 && (step->op & FL_RUN_STEP_OPTIONAL) ? 0 : r;
}
