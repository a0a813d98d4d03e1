/* From a prepared child to the program: what it may do is taken away. */
#include "fl_run_private.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "fl_sys.h"

#define NR_CLOSE_RANGE 436
#define CLOSE_RANGE_CLOEXEC_ 4u
#define CAPS_MAX 64

#ifdef SYS_setresuid32
#define SETRESUID SYS_setresuid32
#define SETRESGID SYS_setresgid32
#define SETGROUPS SYS_setgroups32
#else
#define SETRESUID SYS_setresuid
#define SETRESGID SYS_setresgid
#define SETGROUPS SYS_setgroups
#endif

static void give_up(const struct fl_run *run, int stage, int errnum)
{
    fl_run_tell(run->report, FL_RUN_STAGE, stage, errnum);
    _exit(255);
}

static bool is_null(int fd)
{
    struct stat found;

    return fstat(fd, &found) == 0 && S_ISCHR(found.st_mode) && found.st_rdev == makedev(1, 3);
}

/* The caller's /dev/null is a file of the host, whose mode root in here could change: the root's own, as runc does. */
static int own_null(int fd)
{
    int own = is_null(fd) ? open("/dev/null", O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC) : -1;

    if (own < 0)
        return fd;
    if (!is_null(own) || fcntl(own, F_SETFL, O_RDWR) < 0) {
        close(own);
        return fd;
    }
    close(fd);
    return own;
}

/* Pipes and terminals are given to the user, who may then open them by name (/dev/stdout), as runc does. */
static int set_stdio(const struct fl_run *run)
{
    const struct fl_run_program *p = &run->program;
    int terminal = p->terminal < 0 ? -1 : run->slots[p->terminal];
    struct stat found;
    int high[3];

    if (terminal >= 0 && ioctl(terminal, TIOCSCTTY, 0) < 0)
        return -1;
    for (int i = 0; i < 3; i++) {
        high[i] = fcntl(terminal < 0 ? p->stdio[i] : terminal, F_DUPFD_CLOEXEC, 3);
        if (high[i] < 0)
            return -1;
        high[i] = own_null(high[i]);
        if (p->uid != 0 && fstat(high[i], &found) == 0 && (S_ISFIFO(found.st_mode) || terminal >= 0))
            (void)!fchown(high[i], p->uid, (gid_t)-1);
    }
    for (int i = 0; i < 3; i++)
        if (dup2(high[i], i) < 0)
            return -1;
    return 0;
}

/* A directory that is open on something outside would be a way out of the root (CVE-2024-21626). */
static int set_cwd(const char *path)
{
    char where[4096];

    if (chdir(path) < 0)
        return -1;
    if (syscall(SYS_getcwd, where, sizeof(where)) > 0 && where[0] != '/') {
        errno = ENOENT;
        return -1;
    }
    return 0;
}

static int set_filter(const struct fl_run_program *p)
{
    struct sock_fprog program = {.len = p->filter_len, .filter = (struct sock_filter *)p->filter};

    if (p->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -1;
    return p->filter_len == 0 ? 0 : (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, p->filter_flags, &program);
}

static int set_limits(const struct fl_run_program *p)
{
    for (size_t i = 0; i < p->limit_count; i++) {
        uint64_t pair[2] = {p->limits[i].soft, p->limits[i].hard}; /* struct rlimit64 */

        if (syscall(SYS_prlimit64, 0, p->limits[i].resource, pair, NULL) < 0)
            return -1;
    }
    return 0;
}

static int drop_bounding(const struct fl_run_program *p)
{
    if (p->keep_caps)
        return 0;
    for (int cap = 0; cap < CAPS_MAX; cap++) {
        if (!(p->caps >> cap & 1) && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1 &&
            prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
            return -1;
    }
    return 0;
}

static int set_groups(const struct fl_run_program *p)
{
    if (p->group_count >= 0 && syscall(SETGROUPS, p->group_count, p->groups) < 0)
        return -1;
    return (int)syscall(SETRESGID, p->gid, p->gid, p->gid);
}

/* Of the capabilities there are, those that are wanted; none can be inherited (CVE-2022-24769). */
static int set_caps(const struct fl_run_program *p)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (p->keep_caps)
        return 0;
    if (syscall(SYS_capget, &header, data) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        data[i].permitted &= (uint32_t)(p->caps >> (32 * i));
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    return (int)syscall(SYS_capset, &header, data);
}

void fl_run_become(const struct fl_run *run)
{
    const struct fl_run_program *p = &run->program;
    uint64_t magic;

    if (set_stdio(run) < 0)
        give_up(run, FL_RUN_STDIO, errno);
    syscall(NR_CLOSE_RANGE, 3u, ~0u, CLOSE_RANGE_CLOEXEC_); /* on all of ours it is set anyway */
    if (set_cwd(p->cwd) < 0)
        give_up(run, FL_RUN_CWD, errno);
    if (drop_bounding(p) < 0)
        give_up(run, FL_RUN_BOUNDING, errno);
    if (set_groups(p) < 0)
        give_up(run, FL_RUN_GROUPS, errno);
    magic = fl_run_find_magic(p);
    if (set_limits(p) < 0) /* needs CAP_SYS_RESOURCE, to raise what there is */
        give_up(run, FL_RUN_LIMITS, errno);
    if (!p->no_new_privs && set_filter(p) < 0) /* needs CAP_SYS_ADMIN, which is about to go */
        give_up(run, FL_RUN_SECCOMP, errno);
    if (syscall(SETRESUID, p->uid, p->uid, p->uid) < 0)
        give_up(run, FL_RUN_USER, errno);
    prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0); /* a change of user has cleared it */
    if (set_caps(p) < 0)
        give_up(run, FL_RUN_CAPS, errno);
    if (p->no_new_privs && set_filter(p) < 0)
        give_up(run, FL_RUN_SECCOMP, errno);
    umask(0022);
    give_up(run, FL_RUN_EXEC, fl_run_execute(p, magic));
    __builtin_unreachable();
}
