/* Ending a tree of processes without a pid namespace: every orphan becomes a child of its subreaper, so what is killed
 * hands its own children up, until none is left. */
#include "fl_run_private.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fl_buf.h"

#define NAP_US 500
#define ROUNDS_AT_ONCE 1000u

/* "PID (NAME) STATE PPID ...": a name may hold anything. */
static pid_t parent_of(const char *pid)
{
    char path[64] = "/proc/", text[512];
    const char *end;
    cleanup_fd int fd = -1;
    ssize_t length;

    if (strlen(pid) > 20)
        return -1;
    strcat(strcat(path, pid), "/stat");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (length <= 0)
        return -1;
    text[length] = '\0';
    end = strrchr(text, ')');
    return end == NULL || strlen(end) < 4 ? -1 : (pid_t)strtol(end + 4, NULL, 10);
}

struct name {
    uint64_t ino;
    int64_t off;
    unsigned short length;
    unsigned char type;
    char text[];
};

static void kill_named(const char *name, pid_t self)
{
    if (name[0] >= '1' && name[0] <= '9' && parent_of(name) == self)
        kill((pid_t)strtol(name, NULL, 10), SIGKILL);
}

/* The list that the kernel keeps (CONFIG_PROC_CHILDREN): fast enough for those that fork and exit without end. */
static bool kill_listed(void)
{
    char text[4096], *at = text, *end;
    cleanup_fd int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    long pid;

    if (length < 0)
        return false;
    text[length] = '\0';
    /* A number that the end of the buffer has cut must not be taken for another one. */
    for (pid = strtol(at, &end, 10); end != at && *end == ' '; pid = strtol(at, &end, 10)) {
        kill((pid_t)pid, SIGKILL);
        at = end;
    }
    return true;
}

static void kill_found(void)
{
    char names[4096] __attribute__((aligned(8)));
    cleanup_fd int fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    pid_t self = getpid();
    long length;

    while (fd >= 0 && (length = syscall(SYS_getdents64, fd, names, sizeof(names))) > 0)
        for (long at = 0; at < length; at += ((struct name *)(names + at))->length)
            kill_named(((struct name *)(names + at))->text, self);
}

void fl_run_kill_all(void)
{
    pid_t ended;

    for (unsigned round = 0;; round++) {
        while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (ended < 0 && errno == ECHILD)
            return;
        if (!kill_listed())
            kill_found();
        if (round > ROUNDS_AT_ONCE)
            usleep(NAP_US);
    }
}
