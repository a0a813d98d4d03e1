#include "fl_run_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR_PIDFD_OPEN 434
#define NR_CLOSE_RANGE 436
#define LOOK_AGAIN_MS 10 /* where a process cannot be waited for by poll */
#define KEPT_MAX 512u

void fl_run_tell(int report, int what, int number, int value)
{
    struct fl_run_record record = {what, number, value, 0};

    (void)!write(report, &record, sizeof(record));
}

/* fork without the handlers of libc, whose locks another thread may hold; with a null stack the order of arguments
 * does not matter. */
pid_t fl_run_fork(uint64_t flags)
{
    return (pid_t)syscall(SYS_clone, (unsigned long)flags | SIGCHLD, 0, 0, 0, 0);
}

/* ---- what the keeper takes along ---- */

static void close_between(unsigned first, unsigned last)
{
    if (first > last || syscall(NR_CLOSE_RANGE, first, last, 0) == 0)
        return;
    if (last > 65536)
        last = 65536;
    for (unsigned fd = first; fd <= last; fd++)
        close((int)fd);
}

void fl_run_close_others(int *kept, size_t count)
{
    unsigned next = 3;

    for (size_t i = 1; i < count; i++) /* few: sorted by insertion */
        for (size_t j = i; j > 0 && kept[j - 1] > kept[j]; j--) {
            int swap = kept[j];
            kept[j] = kept[j - 1];
            kept[j - 1] = swap;
        }
    for (size_t i = 0; i < count; i++) {
        if (kept[i] > (int)next)
            close_between(next, (unsigned)kept[i] - 1);
        if (kept[i] >= (int)next)
            next = (unsigned)kept[i] + 1;
    }
    close_between(next, ~0u);
}

static void keep_own_descriptors(const struct fl_run *run)
{
    int kept[KEPT_MAX];
    size_t count = 0;

    kept[count++] = run->life;
    kept[count++] = run->report;
    if (run->ready >= 0)
        kept[count++] = run->ready;
    for (int i = 0; i < 3; i++)
        kept[count++] = run->program.stdio[i];
    for (size_t i = 0; i < run->slot_count && count < KEPT_MAX; i++)
        if (run->slots[i] >= 0)
            kept[count++] = run->slots[i];
    fl_run_close_others(kept, count);
}

/* Handlers are the caller's; what it ignores the program would ignore, too. */
void fl_run_reset_signals(void)
{
    struct sigaction plain = {.sa_handler = SIG_DFL};

    for (int number = 1; number < NSIG; number++)
        sigaction(number, &plain, NULL);
}

/* ---- the child ---- */

static void live_as_child(const struct fl_run *run)
{
    sigset_t none;

    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (!(run->namespaces & CLONE_NEWPID) && getppid() == 1)
        _exit(255); /* the keeper has just died */
    setsid();
    for (size_t i = 0; i < run->child_count; i++) {
        if (fl_run_step(run, &run->child[i], NULL) < 0) {
            fl_run_tell(run->report, FL_RUN_CHILD, (int)i, errno);
            _exit(255);
        }
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    fl_run_become(run);
}

/* ---- the keeper ---- */

static int status_of(int how)
{
    return WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
}

/* True when the caller is there no more, or has said stop; a signal it asks for is sent. */
static bool is_over(int life, short events, pid_t child)
{
    unsigned char number;

    if (events == 0)
        return false;
    if (read(life, &number, 1) <= 0)
        return true;
    kill(child, number);
    return false;
}

static int wait_for(const struct fl_run *run, pid_t child)
{
    int pidfd = (int)syscall(NR_PIDFD_OPEN, child, 0), how = 0;
    struct pollfd polled[2] = {{.fd = run->life, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
    pid_t found;

    for (;;) {
        poll(polled, pidfd < 0 ? 1 : 2, pidfd < 0 ? LOOK_AGAIN_MS : -1);
        found = waitpid(child, &how, WNOHANG);
        if (found == child || (found < 0 && errno != EINTR))
            return status_of(how);
        if (is_over(run->life, polled[0].revents, child))
            break;
    }
    kill(child, SIGKILL);
    if (run->whole_tree)
        kill(-child, SIGKILL);
    while (waitpid(child, &how, 0) < 0 && errno == EINTR)
        ;
    return status_of(how);
}

static bool do_steps(const struct fl_run *run, struct fl_run_stubs *stubs)
{
    for (size_t i = 0; i < run->keeper_count; i++) {
        if (fl_run_step(run, &run->keeper[i], stubs) < 0) {
            fl_run_tell(run->report, FL_RUN_KEEPER, (int)i, errno);
            return false;
        }
    }
    return true;
}

static void run_child(const struct fl_run *run, int maps)
{
    pid_t child = fl_run_fork(run->namespaces);
    int status;

    if (child == 0)
        live_as_child(run);
    if (child < 0) {
        fl_run_tell(run->report, FL_RUN_KEEPER, (int)run->keeper_count, errno);
        return;
    }
    if (run->ready >= 0) {
        fl_run_tell(run->report, FL_RUN_PID, 0, child);
        close(run->ready); /* after it: who sees the end of that pipe looks for the pid in the other */
        fl_run_give_back(maps);
    }
    status = wait_for(run, child);
    if (run->whole_tree)
        fl_run_kill_all();
    fl_run_tell(run->report, FL_RUN_EXIT, 0, status);
}

void fl_run_live_as_keeper(const struct fl_run *given)
{
    const struct fl_run here = *given, *run = &here; /* on the stack, which stays when memory is given back */
    struct fl_run_stubs stubs = {NULL, 0};
    int maps;

    setsid();
    fl_run_reset_signals();
    keep_own_descriptors(run);
    maps = run->ready >= 0 ? fl_run_open_maps() : -1; /* later there is no /proc any more */
    prctl(PR_SET_NAME, "fastlayer-run", 0, 0, 0);
    if (run->whole_tree)
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    stubs.all = mmap(NULL, FL_RUN_STUBS_MAX * sizeof(*stubs.all), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0); /* shared: it is not given back */
    if (stubs.all == MAP_FAILED) {
        fl_run_tell(run->report, FL_RUN_KEEPER, (int)run->keeper_count, errno);
        _exit(1);
    }
    if (do_steps(run, &stubs))
        run_child(run, maps);
    fl_run_stubs_remove(&stubs);
    _exit(0);
}

/* ---- the caller ---- */

int fl_run_start(const struct fl_run *run, struct fl_error *err)
{
    sigset_t all, before;
    pid_t pid;

    if (run->slot_count + 6 > KEPT_MAX)
        return fl_error_set(err, FL_ERR_LIMIT, NULL, 0, "too many mounts for one step");
    sigfillset(&all); /* no handler of the caller's runs in the new process */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid = fl_run_fork(0);
    if (pid == 0)
        fl_run_live_as_keeper(run);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pid < 0 ? fl_error_os(err, errno, "fork", NULL, 0) : (int)pid;
}
